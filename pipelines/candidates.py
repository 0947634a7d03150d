"""What an evaluate stage compares: trained models, and what learnt nothing.

Each candidate has one feature vector per image, for the heads that are fitted to a support set, and
may have a classifier of its own. Only the images that some episode names are prepared: what a
method's classifier needs of an image may be large (keys and values of all positions).

Letters in shapes: N images that the episodes name, D features, E episodes, W ways, k shots,
q queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_shards.features import FeatureSplit
from data_shards.location import Location
from data_shards.manifest import ShardSet, Split
from data_shards.selection import SubSplit
from fsl.evaluation import EpisodeScores, prototype_scores
from fsl.images import ImageSpec
from fsl.task_scores import method_scores
from pipelines.features import Part, model_features, pixel_features
from pipelines.model import LoadedModel
from pipelines.training_data import Data, training_pools

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
        split: the split's part of it.
        rows: the images, (N,).
    """

    def __init__(self, name: str, split: FeatureSplit, rows: NDArray[np.int64]) -> None:
        super().__init__(name, split.feature_set.digest)
        self.split, self.rows = split, rows

    @cached_property
    def features(self) -> Tensor:
        """The vectors (N, D)."""
        return torch.from_numpy(self.split.vectors()[self.rows])

    @cached_property
    def base_mean(self) -> Tensor | None:
        """Mean vector of the base classes, (D,), if the table has them."""
        if BASE not in self.split.feature_set.splits:
            return None
        return torch.from_numpy(self.split.feature_set.split(BASE).vectors().mean(0))


class Pixels(Candidate):
    """Small pictures as features.

    Args:
        data: what the images are from.
        part: the images.
        images: how a network would see them.
        cache: directory for what is computed of the images.
        batch_size: images prepared together.
    """

    def __init__(
        self, data: ShardSet, part: Part, images: ImageSpec, cache: Location, batch_size: int
    ) -> None:
        super().__init__("pixels", "pixels")
        self.data, self.part, self.images, self.cache = data, part, images, cache
        self.batch_size = batch_size

    @cached_property
    def features(self) -> Tensor:
        """Pixels (N, C*S*S)."""
        return self._of(self.part)

    @cached_property
    def base_mean(self) -> Tensor | None:
        """Mean picture of the base classes, (C*S*S,), if there are any."""
        if BASE not in self.data.splits:
            return None
        return self._of(Part.whole(self.data.split(BASE))).mean(0)

    def _of(self, part: Part) -> Tensor:
        return pixel_features(part, self.images, self.cache, self.batch_size)


class Model(Candidate):
    """A trained method.

    Args:
        name: label of its train stage.
        model: the method and how images look to it.
        data: what the images, or the feature vectors if it was trained on them, are from.
        part: the images, or vectors.
        cache: directory for what is computed of the images.
        batch_size: images per forward pass.
        loader_workers: processes that decode.
    """

    def __init__(
        self,
        name: str,
        model: LoadedModel,
        data: Data,
        part: Part,
        cache: Location,
        *,
        batch_size: int,
        loader_workers: int,
    ) -> None:
        super().__init__(name, model.digest)
        self.model, self.data, self.part, self.cache = model, data, part, cache
        self.batch_size, self.loader_workers = batch_size, loader_workers

    @cached_property
    def features(self) -> Tensor:
        """What `Method.embed` returns, (N, D)."""
        return self._table("embed", self.part)

    @cached_property
    def base_mean(self) -> Tensor | None:
        """Mean feature of the images that it was trained on, (D,); `data` has them."""
        pools = training_pools(self.model.config, self.data)
        return torch.cat([self._table("embed", _part(pool)) for pool in pools]).mean(0)

    @cached_property
    def encoded(self) -> Tensor:
        """What `Method.encode` returns, (N, *F), where the method answers."""
        return self._table("encode", self.part).to(_device())

    def own_scores(self, labels: Tensor, support: Tensor, query: Tensor | None) -> EpisodeScores:
        """Return how `Method.logits` answers."""
        device = _device()
        method = self.model.method.to(device).eval()
        rows = None if query is None else query.to(device)
        scores = method_scores(method, self.encoded, labels.to(device), support.to(device), rows)
        return EpisodeScores(*(part.cpu() for part in scores))

    def _table(self, what: Literal["embed", "encode"], part: Part) -> Tensor:
        return model_features(
            self.model,
            part,
            self.cache,
            batch_size=self.batch_size,
            loader_workers=self.loader_workers,
            what=what,
        )


def _part(pool: Split | FeatureSplit) -> Part:
    """Return a training pool as rows of its whole split, by which features are kept."""
    return Part(pool.whole, pool.rows) if isinstance(pool, SubSplit) else Part.whole(pool)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
