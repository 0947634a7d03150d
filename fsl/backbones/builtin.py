"""Importing this module registers our own backbones."""

from __future__ import annotations

from fsl.backbones.conv4 import Conv4
from fsl.backbones.features import Features
from fsl.backbones.hybrid import ConvViT
from fsl.backbones.resnet12 import ResNet12
from fsl.backbones.resnet34_ctx import ResNet34CTX
from fsl.backbones.vit import ViT

__all__ = ["Conv4", "ConvViT", "Features", "ResNet12", "ResNet34CTX", "ViT"]
