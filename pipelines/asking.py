"""Asking trained models about images: settings of every stage that does, and how it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fsl.config import RuntimeOnly
from pipelines.features import Part, computed, prepared_batches
from pipelines.model import LoadedModel
from pipelines.stage import StageConfig


class AskingConfig(StageConfig):
    """Settings of a stage that asks trained models."""

    which: Literal["best", "last"] = "best"
    """Which checkpoint of each train stage."""
    batch_size: Annotated[int, Field(ge=1, le=65536), RuntimeOnly] = 256
    """Images per forward pass."""
    loader_workers: Annotated[int, Field(ge=0, le=64), RuntimeOnly] = 0
    """Processes that decode, beside each one that computes; 0 decodes there."""


def asked(
    model: LoadedModel, part: Part, what: Callable[[Tensor], Tensor], config: AskingConfig
) -> Tensor:
    """Return what a function of the model's method makes of images, (N, *F)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.method.to(device).eval()
    batches = prepared_batches(part, model.images, config.batch_size, config.loader_workers)
    return computed(what, batches, device)
