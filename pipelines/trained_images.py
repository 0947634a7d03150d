"""Images that a model was trained on are no test of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from data_shards.labelled_rows import LabelledRows
from data_shards.selection import SubSplit
from pipelines.ancestry import image_sources, trainings
from pipelines.stage import PlannedStage, inputs_giving


def trained_on(split: str, inputs: Mapping[str, PlannedStage]) -> Iterator[PlannedStage]:
    """Yield the trainings behind the inputs that use images of a split of the needed shards."""
    (shards,) = inputs_giving(inputs, "shards")
    for stage in trainings(inputs):
        if split in stage.config.splits and image_sources(stage.inputs) == {shards.key}:
            yield stage


def in_both(split: LabelledRows, pool: LabelledRows) -> int:
    """Return how many images of a split are in what was trained on."""
    if split.name != pool.name:
        return 0
    return len(np.intersect1d(_rows(split), _rows(pool)))


def _rows(split: LabelledRows) -> NDArray[np.int64]:
    """Return which rows of its whole split a split or a part of it has."""
    return split.rows if isinstance(split, SubSplit) else np.arange(len(split), dtype=np.int64)
