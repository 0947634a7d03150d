"""From decoded images to training and evaluation views: multi-crop, single views, evaluation.

Everything random is a function of one 63-bit seed per image (see `draws`); batching, world size
and loader workers cannot change a pixel.
"""

from fsl.augment.config import AffineJitter, ColourJitter, MultiCropConfig, SingleViewConfig
from fsl.augment.evaluation import evaluation_images
from fsl.augment.labelled import LabelledBatcher
from fsl.augment.multi_crop import MultiCropBatcher

__all__ = [
    "AffineJitter",
    "ColourJitter",
    "LabelledBatcher",
    "MultiCropBatcher",
    "MultiCropConfig",
    "SingleViewConfig",
    "evaluation_images",
]
