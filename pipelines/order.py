"""The order of a recipe's stages: what a stage needs stands above it."""

from __future__ import annotations

from collections.abc import Mapping

from fsl.errors import StageError, did_you_mean
from pipelines.stage import StageConfig


def check_order(stages: Mapping[str, StageConfig]) -> None:
    """Raise StageError when a `needs` names no earlier stage."""
    labels = list(stages)
    for position, (label, config) in enumerate(stages.items()):
        where = f"stages.{label}.needs"
        for needed in config.needs:
            if needed not in stages:
                raise StageError(
                    f"{where}: there is no stage {needed!r}{did_you_mean(needed, labels)}; "
                    f"stages: {', '.join(labels)}"
                )
            if config.needs.count(needed) > 1:
                raise StageError(f"{where}: {needed!r} is listed twice; remove one")
            if labels.index(needed) >= position:
                raise StageError(f"{where}: {_late(label, needed, stages)}")


def _late(label: str, needed: str, stages: Mapping[str, StageConfig]) -> str:
    """Return the message for a needed stage that does not come earlier."""
    if needed == label:
        return f"{label!r} needs itself; remove it from the list"
    back = _way(needed, label, stages, set())
    if back:
        return f"the stages need one another in a circle: {' -> '.join([label, *back])}"
    return f"{needed!r} comes later in the recipe; write it above {label!r}"


def _way(start: str, goal: str, stages: Mapping[str, StageConfig], seen: set[str]) -> list[str]:
    """Return the labels on a way from `start` to `goal` along `needs`, or nothing."""
    if start == goal:
        return [start]
    seen.add(start)
    for needed in stages[start].needs:
        if needed in stages and needed not in seen:
            rest = _way(needed, goal, stages, seen)
            if rest:
                return [start, *rest]
    return []
