"""Our methods; importing this package registers them."""

from fsl.methods.awgim import AWGIM
from fsl.methods.compositional import Compositional
from fsl.methods.crosstransformer import CrossTransformer
from fsl.methods.masked_distillation import MaskedDistillation
from fsl.methods.moco import MoCo
from fsl.methods.protonet import ProtoNet
from fsl.methods.simclr import SimCLR
from fsl.methods.smkd import SMKD
from fsl.methods.supervised import Supervised

__all__ = [
    "AWGIM",
    "SMKD",
    "Compositional",
    "CrossTransformer",
    "MaskedDistillation",
    "MoCo",
    "ProtoNet",
    "SimCLR",
    "Supervised",
]
