"""Importing this module registers our own backbones."""

from __future__ import annotations

from fsl.backbones.conv4 import Conv4
from fsl.backbones.cvt import CvT
from fsl.backbones.features import Features
from fsl.backbones.hybrid import ConvViT
from fsl.backbones.resnet import ResNet
from fsl.backbones.resnet12 import ResNet12
from fsl.backbones.resnet34_ctx import ResNet34CTX
from fsl.backbones.swin import Swin
from fsl.backbones.t2t import T2T
from fsl.backbones.vit import ViT

__all__ = [
    "T2T",
    "Conv4",
    "ConvViT",
    "CvT",
    "Features",
    "ResNet",
    "ResNet12",
    "ResNet34CTX",
    "Swin",
    "ViT",
]
