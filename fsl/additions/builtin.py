"""Importing this module registers our own additions."""

from __future__ import annotations

from fsl.additions.batchformer import BatchFormer
from fsl.additions.drloc import DRLoc

__all__ = ["BatchFormer", "DRLoc"]
