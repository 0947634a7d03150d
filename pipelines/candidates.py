"""What an evaluate stage compares: trained models, and what learnt nothing.

Each candidate has one feature vector per image, for the heads that are fitted to a support set, and
may have a classifier of its own.

Letters in shapes: N images of the split, D features, E episodes, W ways, k shots, q queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from data_shards.features import FeatureSplit
from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.evaluation import EpisodeScores, prototype_scores
from fsl.images import ImageSpec
from fsl.task_scores import method_scores
from pipelines.checkpoint import LoadedModel
from pipelines.features import model_features, pixel_features
from pipelines.training_data import Data

BASE = "base"


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

    @cached_property
    def base_mean(self) -> Tensor | None:
        """Mean feature of the training classes, (D,), if it is known."""
        return None

    def own_scores(self, labels: Tensor, support: Tensor, query: Tensor | None) -> EpisodeScores:
        """Return how its own classifier answers; without one, the nearest class mean by cosine.

        Args:
            labels: (N,).
            support: (E, W, k) rows.
            query: (E, W, q) rows, or None for all other images of each class.
        """
        return prototype_scores(self.features, labels, support, query)


class Vectors(Candidate):
    """A table of features as they are.

    Args:
        name: label of the stage that made it.
        split: its rows.
    """

    def __init__(self, name: str, split: FeatureSplit) -> None:
        super().__init__(name, split.feature_set.digest)
        self.split = split

    @cached_property
    def features(self) -> Tensor:
        """The vectors (N, D)."""
        return torch.from_numpy(self.split.vectors().copy())

    @cached_property
    def base_mean(self) -> Tensor | None:
        """Mean vector of the base classes, (D,), if the table has them."""
        if BASE not in self.split.feature_set.splits:
            return None
        return torch.from_numpy(self.split.feature_set.split(BASE).vectors().mean(0))


class Pixels(Candidate):
    """Small pictures as features."""

    def __init__(
        self, data: ShardSet, split: str, images: ImageSpec, cache: Location, batch_size: int
    ) -> None:
        super().__init__("pixels", "pixels")
        self.data, self.split, self.images, self.cache = data, split, images, cache
        self.batch_size = batch_size

    @cached_property
    def features(self) -> Tensor:
        """Pixels (N, C*S*S)."""
        return self._of(self.split)

    @cached_property
    def base_mean(self) -> Tensor | None:
        """Mean picture of the base classes, (C*S*S,), if there are any."""
        return self._of(BASE).mean(0) if BASE in self.data.splits else None

    def _of(self, split: str) -> Tensor:
        return pixel_features(self.data.split(split), self.images, self.cache, self.batch_size)


class Model(Candidate):
    """A trained method.

    Args:
        name: label of its train stage.
        model: the method and how images look to it.
        data: images, or feature vectors if it was trained on them.
        split: name of the split.
        cache: directory for what is computed of the images.
        batch_size: images per forward pass.
        loader_workers: processes that decode.
    """

    def __init__(
        self,
        name: str,
        model: LoadedModel,
        data: Data,
        split: str,
        cache: Location,
        *,
        batch_size: int,
        loader_workers: int,
    ) -> None:
        super().__init__(name, model.digest)
        self.model, self.data, self.split, self.cache = model, data, split, cache
        self.batch_size, self.loader_workers = batch_size, loader_workers

    @cached_property
    def features(self) -> Tensor:
        """What `Method.embed` returns, (N, D)."""
        return self._table("embed", self.split)

    @cached_property
    def base_mean(self) -> Tensor | None:
        """Mean feature of the classes it was trained on, (D,)."""
        return self._table("embed", self.model.config.splits[0]).mean(0)

    @cached_property
    def encoded(self) -> Tensor:
        """What `Method.encode` returns, (N, *F), where the method answers."""
        return self._table("encode", self.split).to(_device())

    def own_scores(self, labels: Tensor, support: Tensor, query: Tensor | None) -> EpisodeScores:
        """Return how `Method.logits` answers."""
        device = _device()
        method = self.model.method.to(device).eval()
        rows = None if query is None else query.to(device)
        scores = method_scores(method, self.encoded, labels.to(device), support.to(device), rows)
        return EpisodeScores(*(part.cpu() for part in scores))

    def _table(self, what: Literal["embed", "encode"], split: str) -> Tensor:
        return model_features(
            self.model,
            self.data.split(split),
            self.cache,
            batch_size=self.batch_size,
            loader_workers=self.loader_workers,
            what=what,
        )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
