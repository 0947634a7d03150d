"""From decoded images to a training batch, inside a loader worker.

A batcher is picklable and pure: everything random in it comes from the seeds it is given, one
per image, which are functions of (run seed, epoch, global position). So world size, number of
loader workers and restarts cannot change what is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fsl.types import Episode


class Batcher(Protocol):
    """Makes one batch of one rank."""

    def __call__(
        self,
        images: Sequence[Tensor],
        labels: Sequence[int],
        seeds: Sequence[int],
        epoch: int,
        class_seed: int = 0,
    ) -> Any:
        """Return a batch (Episode, LabelledBatch or MultiViewBatch).

        Args:
            images: decoded, uint8 (C, H, W), sizes may differ.
            labels: class number of each image.
            seeds: a 63-bit seed of each image; equal seeds give equal views and masks.
            epoch: epoch from 0, for what starts late (masks).
            class_seed: a 63-bit seed that is one for all images of an epoch, for what is drawn per
                class (quarter turns); a function of (run seed, epoch).
        """


@dataclass(frozen=True)
class EpisodeLayout:
    """Which images of a batch are support and queries of which task; all tasks have one shape.

    Attributes:
        numbers: (T,) the tasks' numbers, counted over the whole run.
        support_labels: (T, S) int64, 0..ways-1 within the task.
        query_labels: (T, Q) int64.
        ways: number of classes of each task.
    """

    numbers: NDArray[np.int64]
    support_labels: Tensor
    query_labels: Tensor
    ways: int


class EpisodeBatcher(Protocol):
    """Makes the tasks of one rank's batch.

    Attributes:
        varies: whether tasks of equal layout may come out in different shapes.
    """

    varies: bool

    def __call__(
        self,
        images: Sequence[Tensor] | Tensor,
        labels: Sequence[int],
        seeds: Sequence[int],
        layout: EpisodeLayout,
    ) -> Episode:
        """Return the tasks, stacked.

        Args:
            images: task by task, the support images and then the queries, T * (S + Q) of them:
                decoded, uint8 (C, H, W), sizes may differ; or feature vectors in one tensor,
                (T * (S + Q), D, 1, 1).
            labels: number of each image's class in its split.
            seeds: a 63-bit seed of each image, a function of (run seed, task, place in the task).
            layout: what the images are to their tasks.
        """
