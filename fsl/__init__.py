"""Few-shot learning in plain PyTorch: methods, losses, backbones, evaluation.

The public names are imported at first use: `import fsl` alone must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsl.backbones import BACKBONES, build_backbone
    from fsl.config import build, load_recipe
    from fsl.errors import FewShotError
    from fsl.images import ImageSpec
    from fsl.method import METHODS, Method, MethodConfig, build_method
    from fsl.metrics import MeanCI, mean_ci95
    from fsl.types import Episode, LabelledBatch, MultiViewBatch, StepOutput

_HOME = {
    "BACKBONES": "fsl.backbones",
    "METHODS": "fsl.method",
    "Episode": "fsl.types",
    "FewShotError": "fsl.errors",
    "ImageSpec": "fsl.images",
    "LabelledBatch": "fsl.types",
    "MeanCI": "fsl.metrics",
    "Method": "fsl.method",
    "MethodConfig": "fsl.method",
    "MultiViewBatch": "fsl.types",
    "StepOutput": "fsl.types",
    "build": "fsl.config",
    "build_backbone": "fsl.backbones",
    "build_method": "fsl.method",
    "load_recipe": "fsl.config",
    "mean_ci95": "fsl.metrics",
}

__all__ = [
    "BACKBONES",
    "METHODS",
    "Episode",
    "FewShotError",
    "ImageSpec",
    "LabelledBatch",
    "MeanCI",
    "Method",
    "MethodConfig",
    "MultiViewBatch",
    "StepOutput",
    "build",
    "build_backbone",
    "build_method",
    "load_recipe",
    "mean_ci95",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fsl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
