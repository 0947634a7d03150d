"""What a batch is and what a training step returns.

Letters in shapes: T tasks, S support images, Q queries, W ways, B images, V views,
C channels, H height, W width, h x w patch grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor


class Batch:
    """Base of all batches: moves its tensors to a device."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """Return the batch with every tensor on `device`."""
        moved = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class Episode(Batch):
    """Tasks stacked on the first axis; labels are 0..ways-1 within a task, in any order."""

    support_images: Tensor  # (T, S, C, H, W)
    support_labels: Tensor  # (T, S) int64
    query_images: Tensor  # (T, Q, C, H, W)
    query_labels: Tensor  # (T, Q) int64
    ways: int


@dataclass(frozen=True)
class LabelledBatch(Batch):
    """Images with the class numbers of their shard set."""

    images: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,) int64


@dataclass(frozen=True)
class MultiViewBatch(Batch):
    """Several crops of each image, view-major: view 0 of all images, then view 1, ..."""

    global_views: Tensor  # (Vg*B, C, H, W)
    local_views: Tensor  # (Vl*B, C, h, w); empty when there are none
    masks: Tensor  # (Vg*B, gh, gw) bool, True = hidden from the student
    labels: Tensor  # (B,) int64
    size: int  # B, never inferred from chunk()


class StepOutput(NamedTuple):
    """The scalar to differentiate and detached numbers to log."""

    loss: Tensor  # ()
    metrics: Mapping[str, Tensor]


class Progress(NamedTuple):
    """Where a training run stands; schedules are functions of it."""

    step: int  # optimizer steps done, from 0
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        """Epoch of the step about to be taken, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Number of epochs, rounded up."""
        return -(-self.total_steps // self.steps_per_epoch)
