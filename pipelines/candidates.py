"""What an evaluate stage compares: trained models, and what learnt nothing.

Each candidate has one feature vector per image, for the heads that are fitted to a support set, and
may have a classifier of its own.

Letters in shapes: N images of the split, D features, E episodes, W ways, k shots, q queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from data_shards.location import Location
from data_shards.manifest import Split
from fsl.evaluation import EpisodeScores, prototype_scores
from fsl.images import ImageSpec
from fsl.task_scores import method_scores
from pipelines.checkpoint import LoadedModel
from pipelines.features import model_features, pixel_features


class Candidate(ABC):
    """Answers episodes of one split.

    Attributes:
        name: how tables call it.
        digest: of what it learnt.
    """

    def __init__(self, name: str, digest: str) -> None:
        self.name, self.digest = name, digest

    @cached_property
    @abstractmethod
    def features(self) -> Tensor:
        """One vector per image, (N, D)."""

    def own_scores(self, labels: Tensor, support: Tensor, query: Tensor | None) -> EpisodeScores:
        """Return how its own classifier answers; without one, the nearest class mean by cosine.

        Args:
            labels: (N,).
            support: (E, W, k) rows.
            query: (E, W, q) rows, or None for all other images of each class.
        """
        return prototype_scores(self.features, labels, support, query)


class Pixels(Candidate):
    """Small pictures as features."""

    def __init__(self, split: Split, images: ImageSpec, cache: Location, batch_size: int) -> None:
        super().__init__("pixels", "pixels")
        self.split, self.images, self.cache = split, images, cache
        self.batch_size = batch_size

    @cached_property
    def features(self) -> Tensor:
        """Pixels (N, C*S*S)."""
        return pixel_features(self.split, self.images, self.cache, self.batch_size)


class Model(Candidate):
    """A trained method."""

    def __init__(
        self,
        name: str,
        model: LoadedModel,
        split: Split,
        cache: Location,
        *,
        batch_size: int,
        loader_workers: int,
    ) -> None:
        super().__init__(name, model.digest)
        self.model, self.split, self.cache = model, split, cache
        self.batch_size, self.loader_workers = batch_size, loader_workers

    @cached_property
    def features(self) -> Tensor:
        """What `Method.embed` returns, (N, D)."""
        return self._table("embed")

    def own_scores(self, labels: Tensor, support: Tensor, query: Tensor | None) -> EpisodeScores:
        """Return how `Method.logits` answers."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        method = self.model.method.to(device).eval()
        rows = None if query is None else query.to(device)
        encoded = self._table("encode").to(device)
        scores = method_scores(method, encoded, labels.to(device), support.to(device), rows)
        return EpisodeScores(*(part.cpu() for part in scores))

    def _table(self, what: str) -> Tensor:
        return model_features(
            self.model,
            self.split,
            self.cache,
            batch_size=self.batch_size,
            loader_workers=self.loader_workers,
            what="encode" if what == "encode" else "embed",
        )
