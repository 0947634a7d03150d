"""How training tasks are made of a split's images: settings, and the fixed N-way K-shot design.

Task number i of seed s is a pure function of (s, i): classes and images get a hash under it, the
smallest are taken. World size, loader workers and restarts cannot change a task.

Letters in shapes: T tasks, W ways, k shots, m queries per class, S = W k support images,
Q = W m queries.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data_shards.episode_draws import classes_large_enough, draw_classes, draw_rows
from data_shards.labelled_rows import LabelledRows
from data_shards.permutation import hash_key
from fsl.config import Section, tagged
from fsl.registry import Registry
from fsl.search_space import Choice, IntRange

TRAINING = 21  # keeps training tasks apart from the sealed ones of the same seed


class EpisodeRows(NamedTuple):
    """Tasks of one shape as row numbers of a split."""

    numbers: NDArray[np.int64]  # (T,)
    ways: int
    support: NDArray[np.int64]  # (T, S)
    support_labels: NDArray[np.int64]  # (T, S) 0..ways-1
    query: NDArray[np.int64]  # (T, Q)
    query_labels: NDArray[np.int64]  # (T, Q)


class EpisodeDesign(Section):
    """Base of the designs of training tasks."""

    name: str
    per_step: Annotated[int, Field(ge=1, le=4096), Choice(1, 2, 4, 8)] = 1
    """Tasks of one optimizer step, over all workers."""
    per_epoch: Annotated[int, Field(ge=1)] = 100
    """Tasks that are called an epoch; validation and schedules count in epochs."""

    varies: ClassVar[bool] = False
    """Whether tasks differ in shape, so that they cannot be stacked."""
    Config: ClassVar[type[EpisodeDesign]]
    """The class itself: what a registry looks for."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.Config = cls

    @model_validator(mode="after")
    def _a_step_fits_an_epoch(self) -> EpisodeDesign:
        if self.per_step > self.per_epoch:
            raise ValueError(
                f"per_step {self.per_step} exceeds per_epoch {self.per_epoch}; raise per_epoch"
            )
        return self

    @abstractmethod
    def check(self, split: LabelledRows) -> None:
        """Raise ConfigError when the split cannot serve such tasks."""

    def warning(self, split: LabelledRows) -> str | None:
        """Return in words what of the split such tasks never show. Default: None, nothing."""
        del split
        return None

    @abstractmethod
    def rows(self, split: LabelledRows, numbers: NDArray[np.int64], seed: int) -> EpisodeRows:
        """Return the tasks with these numbers, (T,), which is one task where shapes vary."""


EPISODE_DESIGNS: Registry[type[EpisodeDesign]] = Registry(
    "episode design", "data_shards.builtin_designs", "fewshot.episode_designs"
)
AnyEpisodeDesign = tagged(EPISODE_DESIGNS)
"""The settings of any registered design, chosen by `name`."""


@EPISODE_DESIGNS.register("fixed")
class FixedEpisodes(EpisodeDesign):
    """N-way K-shot: every class has the same number of support and query images."""

    name: Literal["fixed"] = "fixed"
    ways: Annotated[int, Field(ge=2, le=4096), IntRange(5, 60)] = 20
    """Classes of a task. More than in the evaluation usually trains better."""
    shots: Annotated[int, Field(ge=1, le=1024), IntRange(1, 10)] = 1
    """Labelled images per class."""
    queries: Annotated[int, Field(ge=1, le=1024), IntRange(1, 15)] = 5
    """Images per class to be recognised, other ones than the labelled."""

    def check(self, split: LabelledRows) -> None:
        """Raise ConfigError when too few classes have enough images."""
        classes_large_enough(split, self.ways, self.shots, self.queries, self.per_epoch)

    def warning(self, split: LabelledRows) -> str | None:
        """Return how many classes have too few images to be drawn."""
        counts, needed = split.class_rows().counts, self.shots + self.queries
        small = int((counts < needed).sum())
        if not small:
            return None
        return (
            f"{small} of {len(counts)} classes of split {split.name!r} have fewer than {needed} "
            "images and are never drawn; lower episodes.shots or episodes.queries"
        )

    def rows(self, split: LabelledRows, numbers: NDArray[np.int64], seed: int) -> EpisodeRows:
        """Return the tasks with these numbers, (T,)."""
        seed = hash_key(seed, TRAINING) >> 2
        tasks = len(numbers)
        large = classes_large_enough(split, self.ways, self.shots, self.queries, tasks)
        classes = large[draw_classes(len(large), self.ways, numbers, seed)]  # (T, W)
        wanted = self.shots + self.queries
        rows = draw_rows(split, classes, numbers, seed, wanted=wanted).astype(np.int64)
        support, query = rows[..., : self.shots], rows[..., self.shots :]  # (T, W, k), (T, W, m)
        ways = np.arange(self.ways)
        return EpisodeRows(
            numbers,
            self.ways,
            support.reshape(tasks, -1),
            np.tile(ways.repeat(self.shots), (tasks, 1)),
            query.reshape(tasks, -1),
            np.tile(ways.repeat(self.queries), (tasks, 1)),
        )
