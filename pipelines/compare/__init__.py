"""Comparing runs: which method is better, by how much, and whether one can know."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from data_shards.location import Location
    from pipelines.compare.comparison import Comparison


def compare(
    paths: Sequence[str | Path | Location],
    *,
    ways: Collection[int] = (),
    shots: Collection[int] = (),
    labels: Collection[str] = (),
    protocols: Collection[str] = (),
    baseline: str | None = None,
    by: Literal["method", "seed"] = "method",
) -> Comparison:
    """Compare the models of finished runs on the episodes, or images, that they share.

    Args:
        paths: run directories, or directories of evaluate or classify stages.
        ways: keep these; empty keeps all, as for the next three.
        shots: labelled images per class.
        labels: stage labels of models, and names of baselines.
        protocols: how queries were answered: method, prototype, classifier.
        baseline: name of the method that the others are held against; None takes the best.
        by: `method` averages training runs that differ only in their seed; `seed` keeps them apart.

    Raises:
        FewShotError: not a run, nothing finished, an unknown name, or nothing comparable.
    """
    # imported here: the package is imported to list the commands, and torch takes its time
    from pipelines.compare.answers import Wanted  # noqa: PLC0415
    from pipelines.compare.comparison import compare_runs  # noqa: PLC0415

    wanted = Wanted(ways=ways, shots=shots, labels=labels, protocols=protocols)
    return compare_runs(paths, wanted, baseline=baseline, by=by)
