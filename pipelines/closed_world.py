"""The closed world of a zero-shot evaluation: which pairs an image may show.

Letters in shapes: N images, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_shards.manifest import Split
from fsl.errors import StageError
from fsl.methods.compositional import Pair, pair_of
from pipelines.checkpoint import trained_config
from pipelines.features import Part
from pipelines.stage import StageResult


class World(NamedTuple):
    """What all models are asked."""

    parts: tuple[Part, Part]  # images of seen pairs, and of unseen ones
    pairs: list[Pair]  # (P,) seen ones first
    labels: NDArray[np.int64]  # (N,)
    seen: NDArray[np.bool_]  # (P,)


def trained_pairs(models: Sequence[StageResult]) -> list[Pair]:
    """Return the pairs that all models were trained on.

    Raises:
        StageError: they were trained on different ones, and would choose among different pairs.
    """
    found: dict[str, list[Pair]] = {}
    for stage in models:
        method: Any = trained_config(stage.path).method
        found[stage.label] = [(attribute, thing) for attribute, thing in method.pairs]
    (label, pairs), *others = found.items()
    for other, own in others:
        if set(own) != set(pairs):
            name = " ".join(min(set(own) ^ set(pairs)))
            raise StageError(
                f"needs: {label!r} and {other!r} are trained on different pairs (one of them on "
                f"{name!r}), so they would choose among different ones; ask them in stages of "
                "their own"
            )
    return pairs


def closed_world(seen: Split, unseen: Split, trained: Sequence[Pair]) -> World:
    """Return the closed world of the trained pairs and those of the unseen split.

    Raises:
        StageError: a pair of the seen split was not trained on, or one of the unseen split was.
    """
    new = [pair_of(name) for name in unseen.class_names]
    old = [pair_of(name) for name in seen.class_names]
    for key, pairs, right in (("seen_split", old, True), ("unseen_split", new, False)):
        for pair in pairs:
            if (pair in set(trained)) != right:
                raise StageError(
                    f"{key}: the pair {' '.join(pair)!r} was {'not ' if right else ''}trained on; "
                    f"name the split of {'held-out images of trained' if right else 'new'} pairs"
                )
    numbers = {pair: number for number, pair in enumerate([*trained, *new])}
    labels = [
        np.array([numbers[pair] for pair in pairs], np.int64)[split.labels]
        for pairs, split in ((old, seen), (new, unseen))
    ]
    return World(
        (Part.whole(seen), Part.whole(unseen)),
        list(numbers),
        np.concatenate(labels),
        np.arange(len(numbers)) < len(trained),
    )
