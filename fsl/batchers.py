"""From decoded images to a training batch, inside a loader worker.

A batcher is picklable and pure: everything random in it comes from the seeds it is given, one
per image, which are functions of (run seed, epoch, global position). So world size, number of
loader workers and restarts cannot change what is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor


class Batcher(Protocol):
    """Makes one batch of one rank."""

    def __call__(
        self, images: Sequence[Tensor], labels: Sequence[int], seeds: Sequence[int], epoch: int
    ) -> Any:
        """Return a batch (Episode, LabelledBatch or MultiViewBatch).

        Args:
            images: decoded, uint8 (C, H, W), sizes may differ.
            labels: class number of each image.
            seeds: a 63-bit seed of each image; equal seeds give equal views and masks.
            epoch: epoch from 0, for what starts late (masks).
        """
