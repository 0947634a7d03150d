"""What models were asked: the episodes of a sealed bank, or images of classes they learnt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

SAME_EPISODES = "Evaluate them with the same shards, split, queries, tasks and seed"
SAME_SEED = "Set seed in the evaluate stage: left out, it follows the recipe's"
SAME_IMAGES = "Classify the same images: with the same shards, split and where"


@dataclass(frozen=True)
class Asked(ABC):
    """What all models of a table answered.

    Attributes:
        digest: equal for the same images in the same places.
        split: name of the split.
        data: digest of the shard set.
        tasks: how many episodes, or images.
        unit: "episodes" or "images".
        new_classes: whether the classes stand for others that nobody has seen.
    """

    digest: str
    split: str
    data: str
    tasks: int
    unit: ClassVar[str]
    new_classes: ClassVar[bool]

    @property
    @abstractmethod
    def order(self) -> tuple[int, int]:
        """Place of its table among others."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Where it can be found again."""

    @abstractmethod
    def about(self, classes: int, every: bool) -> str:
        """Return how much was asked, in a few words.

        Args:
            classes: how many occur.
            every: whether each of them is in every episode.
        """

    @abstractmethod
    def traits(self) -> Mapping[str, str]:
        """Return what tells it from others of the same kind, by name of the attribute."""

    def reasons(self, other: Any) -> list[str]:
        """Return in what it differs from another of the same kind."""
        found = []
        if self.data != other.data:
            found.append(f"other data (digest {self.data[:12]} instead of {other.data[:12]})")
        if self.split != other.split:
            found.append(f"split {self.split!r} instead of {other.split!r}")
        return found

    @abstractmethod
    def remedy(self, other: Any) -> str:
        """Return what to do so that models are asked the same as in another of its kind."""


@dataclass(frozen=True)
class Bank(Asked):
    """Episodes of new classes."""

    unit = "episodes"
    new_classes = True
    ways: int
    shots: int
    queries: int | str
    seed: int

    def __str__(self) -> str:
        return f"{self.ways}-way {self.shots}-shot"

    @property
    def order(self) -> tuple[int, int]:
        """By ways and shots."""
        return self.ways, self.shots

    @property
    def source(self) -> str:
        """File, data and seed."""
        return f"bank-{self.digest}, data {self.data[:12]}, seed {self.seed}"

    def about(self, classes: int, every: bool) -> str:
        """Return how many episodes, classes and queries."""
        asked = "all other images" if self.queries == "all" else f"{self.queries} queries"
        all_of_them = ", all of them in every episode" if every else ""
        return (
            f"{self.tasks} episodes of {classes} classes ({self.split}{all_of_them}), "
            f"{asked} per class, chance {100 / self.ways:.0f} %"
        )

    def traits(self) -> Mapping[str, str]:
        """Return split, queries, tasks, seed and data."""
        return {
            "split": f"split {self.split}",
            "queries": f"{self.queries} queries",
            "tasks": f"{self.tasks} episodes",
            "seed": f"episodes of seed {self.seed}",
            "data": f"data {self.data[:8]}",
        }

    def reasons(self, other: Bank) -> list[str]:
        """Return in what it differs from another bank of the same ways and shots."""
        found = super().reasons(other)
        if self.queries != other.queries:
            found.append(f"queries per class: {self.queries} instead of {other.queries}")
        if self.tasks != other.tasks:
            found.append(f"{self.tasks} instead of {other.tasks} episodes")
        if self.seed != other.seed:
            found.append(f"episodes drawn with seed {self.seed} instead of {other.seed}")
        return found or ["drawn by another version of this program"]

    def remedy(self, other: Bank) -> str:
        """Return what to set in the evaluate stages."""
        alike = replace(self, seed=other.seed, digest=other.digest) == other
        return SAME_SEED if alike else SAME_EPISODES


@dataclass(frozen=True)
class Images(Asked):
    """Images of the training classes, which were not trained on."""

    unit = "images"
    new_classes = False

    def __str__(self) -> str:
        return "classification"

    @property
    def order(self) -> tuple[int, int]:
        """Before all episodes."""
        return 0, 0

    @property
    def source(self) -> str:
        """Digest of the images' names, and data."""
        return f"images {self.digest[:12]} of {self.split}, data {self.data[:12]}"

    def about(self, classes: int, every: bool) -> str:
        """Return how many images and classes."""
        del every
        return f"{self.tasks} images of {classes} classes ({self.split})"

    def traits(self) -> Mapping[str, str]:
        """Return split, number, data and the images themselves."""
        return {
            "split": f"split {self.split}",
            "tasks": f"{self.tasks} images",
            "data": f"data {self.data[:8]}",
            "digest": f"images {self.digest[:8]}",
        }

    def reasons(self, other: Images) -> list[str]:
        """Return in what the images differ."""
        found = super().reasons(other)
        if self.tasks != other.tasks:
            found.append(f"{self.tasks} instead of {other.tasks} images")
        return found or ["other images of the split"]

    def remedy(self, other: Images) -> str:
        """Return what to set in the classify stages."""
        del other
        return SAME_IMAGES
