"""Accuracy while training: on sealed tasks of validation classes, or on images set aside.

The images are shared out over the ranks, each encodes its own with the running averages of rank 0
(which a checkpoint holds), these are gathered, and every rank computes the same accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import Dataset

from data_shards.episodes import EpisodeBank
from data_shards.features import FeatureSplit
from data_shards.manifest import Split
from fsl.augment import evaluation_images
from fsl.distributed import take_buffers_of_first_
from fsl.evaluation import check_finite
from fsl.images import ImageSpec
from fsl.method import Method
from fsl.metrics import MeanCI, mean_ci95
from fsl.task_scores import method_scores
from pipelines.image_store import Store, open_store
from pipelines.loader_processes import in_order


class ImageChunks(Dataset[Tensor]):
    """Item i is the i-th chunk of some rows, as a network sees them, (n, C, H, W)."""

    def __init__(self, store: Store, rows: NDArray[np.int64], images: ImageSpec, size: int) -> None:
        self.store, self.rows, self.images, self.size = store, rows, images, size

    def __len__(self) -> int:
        return (len(self.rows) + self.size - 1) // self.size

    def __getitem__(self, item: int) -> Tensor:
        """Return one chunk."""
        rows = self.rows[item * self.size : (item + 1) * self.size]
        return evaluation_images(self.store.images(rows), self.images)


class SharedImages:
    """Rows of a split that the ranks encode together, each its share.

    Args:
        split: the split.
        rows: which rows, (N,).
        images: how images look to the network.
        batch_size: images per forward pass.
        loader_workers: processes that decode; 0 decodes here.
        rank: this process among `world_size`.
        world_size: number of processes.
    """

    def __init__(
        self,
        split: Split | FeatureSplit,
        rows: NDArray[np.int64],
        images: ImageSpec,
        *,
        batch_size: int = 128,
        loader_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.world_size, self.loader_workers, self.count = world_size, loader_workers, len(rows)
        self.share = -(-len(rows) // world_size)
        own = rows[rank * self.share : (rank + 1) * self.share].astype(np.int64)
        self.chunks = ImageChunks(open_store(split, images.mode), own, images, batch_size)

    def encoded(
        self,
        encode: Callable[[Tensor], Tensor],
        device: torch.device,
        autocast: AbstractContextManager[None],
    ) -> Tensor:
        """Return what `encode` makes of every image, (N, *F) float32, on every rank."""
        chunks = in_order(self.chunks, range(len(self.chunks)), self.loader_workers)
        with autocast:
            parts = [encode(chunk.to(device)).float() for chunk in chunks]
        own = torch.cat(parts) if parts else torch.zeros(0, 1, device=device)
        return self._gathered(own)

    def _gathered(self, own: Tensor) -> Tensor:
        """Return all rows, (N, *F), from each rank's share."""
        if self.world_size == 1:
            return own
        shapes: list[Any] = [None] * self.world_size
        dist.all_gather_object(shapes, tuple(own.shape[1:]) if len(own) else None)
        shape = next(shape for shape in shapes if shape is not None)  # a rank may have no rows
        padded = own.new_zeros(self.share, *shape)
        padded[: len(own)] = own.reshape(-1, *shape)
        shares = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(shares, padded)
        return torch.cat(shares)[: self.count]


class Validator:
    """Scores a method on one bank of tasks.

    Args:
        split: the validation split.
        bank: tasks on it.
        images: how images look to the network.
        shares: see `SharedImages`.
    """

    def __init__(
        self, split: Split | FeatureSplit, bank: EpisodeBank, images: ImageSpec, **shares: int
    ) -> None:
        assert bank.query is not None
        rows, inverse = np.unique(
            np.concatenate([bank.support.ravel(), bank.query.ravel()]), return_inverse=True
        )
        numbers = torch.from_numpy(inverse.ravel().astype(np.int64))
        self.support = numbers[: bank.support.size].view(bank.support.shape)  # (E, W, k)
        self.query = numbers[bank.support.size :].view(bank.query.shape)  # (E, W, q)
        self.labels = torch.from_numpy(split.labels[rows].astype(np.int64))  # (N,)
        self.shared = SharedImages(split, rows, images, **shares)

    @torch.no_grad()
    def score(
        self, method: Method[object], device: torch.device, autocast: AbstractContextManager[None]
    ) -> MeanCI:
        """Return the accuracy over the tasks; all ranks must call it together."""
        take_buffers_of_first_(method.eval())
        encoded = self.shared.encoded(method.encode, device, autocast)
        tasks = (self.labels, self.support, self.query)
        scores = method_scores(method, encoded, *(part.to(device) for part in tasks))
        method.train()
        return mean_ci95(scores.accuracies)


class ClassValidator:
    """Scores a method on images of the training classes that it does not learn from.

    Args:
        split: the images; its labels are those of the training split.
        images: how images look to the network.
        shares: see `SharedImages`.
    """

    def __init__(self, split: Split, images: ImageSpec, **shares: int) -> None:
        self.labels = torch.from_numpy(split.labels.astype(np.int64))  # (N,)
        self.shared = SharedImages(split, np.arange(len(split)), images, **shares)

    @torch.no_grad()
    def score(
        self, method: Method[object], device: torch.device, autocast: AbstractContextManager[None]
    ) -> MeanCI:
        """Return the mean accuracy of the classes' images; all ranks must call it together."""
        take_buffers_of_first_(method.eval())
        logits = self.shared.encoded(method.score_classes, device, autocast)  # (N, C)
        check_finite(logits, "score rows")
        method.train()
        return mean_ci95((logits.argmax(-1) == self.labels.to(device)).double())
