"""Importing this module registers our own backbones."""

from __future__ import annotations

from fsl.backbones.conv4 import Conv4
from fsl.backbones.hybrid import ConvViT
from fsl.backbones.vit import ViT

__all__ = ["Conv4", "ConvViT", "ViT"]
