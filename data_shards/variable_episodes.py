"""Tasks of variable ways and shots (Triantafillou et al., "Meta-Dataset"; ICLR 2020).

The number of classes is drawn first, then the classes, one number of queries for all of them, and
the size of the support set; its images are shared out roughly in proportion to class sizes. The
rules are functions of class sizes and of uniform numbers; those come from hashes of (seed, task).

Letters in shapes: W ways, C classes of the split, S support images, Q queries.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data_shards.class_tree import node_classes
from data_shards.episode_designs import (
    EPISODE_DESIGNS,
    TRAINING,
    EpisodeDesign,
    EpisodeRows,
)
from data_shards.episode_draws import draw_classes, draw_rows
from data_shards.labelled_rows import LabelledRows
from data_shards.permutation import I64, hash_key, hash_with, mix
from fsl.errors import ConfigError
from fsl.search_space import IntRange, Uniform

F64 = NDArray[np.float64]

WAYS, SUPPORT, WEIGHTS, USE_TREE, NODE = range(31, 36)  # keep the draws of a task apart
OF_THE_TREE = ("ignore_hierarchy_probability", "max_span")
FEWEST_IMAGES = 2  # one for the support set, one query


def ways_range(available: int, min_ways: int, max_ways: int) -> tuple[int, int]:
    """Return the smallest and the largest number of classes, both possible."""
    return min_ways, min(max_ways, available)


def queries_per_class(sizes: I64, max_queries: int) -> int:
    """Return the queries of every class: at most half of the smallest class. Sizes (W,)."""
    return int(min(max_queries, (sizes // 2).min()))


def support_size(
    sizes: I64, queries: int, beta: float, max_per_class: int, max_support: int
) -> int:
    """Return the images of the support set, for `beta` uniform in [0, 1). Sizes (W,)."""
    contributions = np.minimum(max_per_class, sizes - queries)
    return int(min(max_support, np.floor(beta * contributions + 1).sum()))


def shots_per_class(sizes: I64, queries: int, support: int, log_weights: F64) -> I64:
    """Return the support images of each class, (W,): one, and a share of the rest.

    Args:
        sizes: images of each class (W,).
        queries: images of each class that are kept for the queries.
        support: images of the support set, at least W; rounding leaves some of them out.
        log_weights: how much more or less than its size a class counts (W,).
    """
    shares = np.exp(log_weights) * sizes
    shares = shares / shares.sum()
    shots: I64 = np.floor(shares * (support - len(sizes))).astype(np.int64) + 1
    np.minimum(shots, sizes - queries, out=shots)
    return shots


@EPISODE_DESIGNS.register("variable")
class VariableEpisodes(EpisodeDesign):
    """Meta-Dataset's tasks: ways and shots vary, classes are unbalanced."""

    varies: ClassVar[bool] = True

    name: Literal["variable"] = "variable"
    min_ways: Annotated[int, Field(ge=2, le=4096), IntRange(2, 10)] = 5
    """Fewest classes of a task."""
    max_ways: Annotated[int, Field(ge=2, le=4096), IntRange(10, 50)] = 50
    """Most classes of a task."""
    max_queries: Annotated[int, Field(ge=1, le=1024), IntRange(1, 15)] = 10
    """Most queries per class; at most half of the images of the smallest class are queries."""
    max_support: Annotated[int, Field(ge=2, le=65536), IntRange(50, 500, 50)] = 500
    """Most support images of a task."""
    max_support_per_class: Annotated[int, Field(ge=1, le=65536), IntRange(5, 100, log=True)] = 100
    """Most images that one class adds to the size of the support set."""
    imbalance: Annotated[float, Field(ge=1, le=1000), Uniform(1.0, 4.0)] = 2.0
    """A class gets up to this many times more, or fewer, images than in proportion to its size."""
    class_tree: bool = False
    """Draw classes below one node of the tree in class_tree.json, beside the shard set's index."""
    ignore_hierarchy_probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """With a class tree: share of the tasks whose classes are drawn from all the same."""
    max_span: Annotated[int, Field(ge=2)] = 392
    """With a class tree: most classes below the node of a task."""

    @model_validator(mode="after")
    def _limits_agree(self) -> VariableEpisodes:
        if self.min_ways > self.max_ways:
            raise ValueError(f"min_ways {self.min_ways} exceeds max_ways {self.max_ways}")
        if self.max_ways > self.max_support:
            raise ValueError(
                f"max_ways {self.max_ways} exceeds max_support {self.max_support}; every class "
                "needs a support image"
            )
        if self.class_tree and self.max_span < self.min_ways:
            raise ValueError(f"max_span {self.max_span} is below min_ways {self.min_ways}")
        return self

    @model_validator(mode="after")
    def _tree_settings_have_a_tree(self) -> VariableEpisodes:
        for name in () if self.class_tree else OF_THE_TREE:
            value = getattr(self, name)
            if value != VariableEpisodes.model_fields[name].default:
                raise ValueError(
                    f"{name}: {value:g} does nothing without a class tree; set class_tree: true, "
                    f"or remove {name}"
                )
        return self

    def check(self, split: LabelledRows) -> None:
        """Raise ConfigError when too few classes have enough images, or the tree serves none."""
        sizes = split.class_rows().counts
        usable = int((sizes >= FEWEST_IMAGES).sum())
        if usable < self.min_ways:
            raise ConfigError(
                f"episodes of split {split.name!r}: min_ways: {self.min_ways}, but of its "
                f"{len(sizes)} classes {usable} have {FEWEST_IMAGES} images; lower min_ways"
            )
        if self.class_tree:
            self._nodes(split, sizes)

    def rows(self, split: LabelledRows, numbers: NDArray[np.int64], seed: int) -> EpisodeRows:
        """Return the one task with this number, (1,)."""
        if len(numbers) != 1:
            raise ValueError(f"{len(numbers)} tasks of different shapes cannot be stacked")
        seed = hash_key(seed, TRAINING) >> 2
        sizes = split.class_rows().counts
        classes = self._classes(split, sizes, numbers, seed)  # (W,)
        shots, queries = self._shape(sizes[classes], numbers, seed)  # (W,), ()
        wanted = int(shots.max()) + queries
        drawn = draw_rows(split, classes[None].astype(np.int32), numbers, seed, wanted=wanted)
        place = np.arange(wanted)
        in_support = place < shots[:, None]  # (W, wanted)
        in_query = ~in_support & (place < shots[:, None] + queries)
        return EpisodeRows(
            numbers,
            len(classes),
            drawn[:, in_support].astype(np.int64),  # (1, S)
            np.nonzero(in_support)[0][None],
            drawn[:, in_query].astype(np.int64),  # (1, Q)
            np.nonzero(in_query)[0][None],
        )

    def _classes(
        self, split: LabelledRows, sizes: I64, numbers: NDArray[np.int64], seed: int
    ) -> NDArray[np.int64]:
        """Return the classes of the task, (W,)."""
        if self.class_tree and _uniform(seed, USE_TREE, numbers) >= (
            self.ignore_hierarchy_probability
        ):
            nodes = self._nodes(split, sizes)
            available = nodes[int(_uniform(seed, NODE, numbers) * len(nodes))]
            ways = min(self.max_ways, len(available))
        else:
            available = np.flatnonzero(sizes >= FEWEST_IMAGES)
            low, high = ways_range(len(available), self.min_ways, self.max_ways)
            ways = low + int(_uniform(seed, WAYS, numbers) * (high - low + 1))
        classes: I64 = available[draw_classes(len(available), ways, numbers, seed)[0]]
        return classes

    def _shape(self, sizes: I64, numbers: NDArray[np.int64], seed: int) -> tuple[I64, int]:
        """Return the shots of each class, (W,), and the queries of every class."""
        queries = queries_per_class(sizes, self.max_queries)
        beta = _uniform(seed, SUPPORT, numbers)
        support = support_size(sizes, queries, beta, self.max_support_per_class, self.max_support)
        key = hash_with(hash_key(seed, WEIGHTS), numbers)  # (1,)
        uniform = _as_uniform(mix(key ^ mix(np.arange(1, len(sizes) + 1, dtype=np.uint64))))
        log_weights = (2 * uniform - 1) * math.log(self.imbalance)  # (W,)
        return shots_per_class(sizes, queries, support, log_weights), queries

    def _nodes(self, split: LabelledRows, sizes: I64) -> tuple[NDArray[np.int64], ...]:
        usable = (sizes >= FEWEST_IMAGES).astype(np.uint8).tobytes()
        names = tuple(split.class_names)
        return node_classes(split.shard_set.root, names, usable, self.min_ways, self.max_span)


def _uniform(seed: int, draw: int, numbers: NDArray[np.int64]) -> float:
    return float(_as_uniform(hash_with(hash_key(seed, draw), numbers))[0])


def _as_uniform(bits: NDArray[np.uint64]) -> F64:
    """Return numbers in [0, 1) of 53 random bits each."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
