"""Our methods; importing this package registers them."""

from fsl.methods.masked_distillation import MaskedDistillation
from fsl.methods.protonet import ProtoNet
from fsl.methods.smkd import SMKD

__all__ = ["SMKD", "MaskedDistillation", "ProtoNet"]
