"""What the finalists' fresh tasks say, in sentences: how much of the search's values was luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipelines.compare.comparison import Comparison
from pipelines.compare.sharing import listed
from pipelines.compare.words import amount, percent, points, signed
from pipelines.train_config import ValidationConfig
from tuning.config import SCORE, FinalistsConfig

BEST, RESULTS = "best.yaml", "finalists.json"


@dataclass(frozen=True)
class Fresh:
    """Accuracy on fresh tasks of some ways and shots, with half of its 95 % interval."""

    ways: int
    shots: int
    mean: float
    half_width: float


@dataclass(frozen=True)
class Finalist:
    """One of the best trials.

    Attributes:
        number: of the trial.
        name: how sentences call it.
        label: how tables call it, after its judged stage.
        recipe: label of its recipe.
        params: what was searched.
        search: validation accuracy in the search; None if it was not measured.
        fresh: accuracies on the fresh tasks.
        directory: of its evaluation, below the study's stages.
    """

    number: int
    name: str
    label: str
    recipe: str
    params: Mapping[str, Any]
    search: float | None
    fresh: Sequence[Fresh]
    directory: str

    def at(self, ways: int, shots: int) -> Fresh | None:
        """Return the accuracy at these ways and shots, if it was asked."""
        return next((f for f in self.fresh if (f.ways, f.shots) == (ways, shots)), None)


def sentences(
    finalists: Sequence[Finalist],
    comparison: Comparison | None,
    asked: ValidationConfig,
    fresh: FinalistsConfig,
    *,
    goals: Sequence[str],
    trials: int,
    best: int,
) -> list[str]:
    """Return what is to be known before one believes the numbers.

    Args:
        finalists: the best trials, the search's best first.
        comparison: of them on the fresh tasks; None for a single one.
        asked: what the search asked.
        fresh: what the finalists were asked.
        goals: by which numbers the search chose; only accuracy alone makes one trial the best.
        trials: how many the search had values of, of which these are the best.
        best: number of the search's best, which is a finalist unless its model is gone.
    """
    ours = list(goals) == [SCORE] and finalists[0].number == best
    return [
        f"{_chosen(len(finalists), goals, asked, trials)} The accuracies here are of "
        f"{fresh.tasks} fresh tasks, drawn with seed {fresh.seed}.",
        _fall(finalists, asked, fresh),
        *([_order(finalists, comparison, asked)] if comparison and ours else []),
        _classes(asked, fresh, goals),
    ]


def accuracies(finalist: Finalist) -> str:
    """Return "trial 7: 91.80 ± 0.30 % (5-way 1-shot)"."""
    parts = [
        f"{percent(f.mean)} ± {points(f.half_width)} % ({f.ways}-way {f.shots}-shot)"
        for f in finalist.fresh
    ]
    return f"{finalist.name} on fresh tasks: {', '.join(parts)}"


def changes(
    finalists: Sequence[Finalist], asked: ValidationConfig, fresh: FinalistsConfig
) -> list[float]:
    """Return fresh minus search value of each finalist; empty where they were asked otherwise."""
    found = [finalist.at(asked.ways, asked.shots) for finalist in finalists]
    if asked.split != fresh.split:
        return []
    return [
        new.mean - finalist.search
        for finalist, new in zip(finalists, found, strict=True)
        if new is not None and finalist.search is not None
    ]


def _chosen(count: int, goals: Sequence[str], asked: ValidationConfig, trials: int) -> str:
    """Say what chose the finalists, and what that does to their accuracies in the search."""
    if list(goals) == [SCORE]:
        who = "this trial was" if count == 1 else "these trials were"
        return (
            f"The search's own values are optimistic: {who} the best of {trials} on the "
            f"{asked.tasks} tasks that chose, and luck was chosen along with skill (the winner's "
            "curse)."
        )
    who = "This trial is" if count == 1 else "These trials are"
    what = "the best" if len(goals) == 1 else "of the Pareto front"
    luck = (
        f"The search's own accuracies are optimistic: they chose too, on {asked.tasks} tasks, "
        "and luck was chosen along with skill (the winner's curse)."
        if SCORE in goals
        else "Their accuracies had no part in that."
    )
    return f"{who} {what} of {trials} trials by {listed(goals)}. {luck}"


def _fall(finalists: Sequence[Finalist], asked: ValidationConfig, fresh: FinalistsConfig) -> str:
    found = changes(finalists, asked, fresh)
    if len(found) < len(finalists):
        return (
            f"The search asked {asked.ways}-way {asked.shots}-shot tasks of split "
            f"{asked.split!r}, and the finalists were not asked the like, so it cannot be told "
            f"how much its values fell; finalists: {{split: {asked.split}, ways: [{asked.ways}], "
            f"shots: [{asked.shots}]}} would tell."
        )
    parts = []
    for finalist, change in zip(finalists, found, strict=True):
        new = finalist.at(asked.ways, asked.shots)
        assert new is not None
        assert finalist.search is not None
        parts.append(
            f"{finalist.name} {percent(finalist.search)} → {percent(new.mean)} ± "
            f"{points(new.half_width)} % ({signed(change)} points)"
        )
    mean = f"; on average {signed(fmean(found))} points" if len(found) > 1 else ""
    return (
        f"From the search to fresh {asked.ways}-way {asked.shots}-shot tasks: "
        f"{', '.join(parts)}{mean}."
    )


def _order(finalists: Sequence[Finalist], comparison: Comparison, asked: ValidationConfig) -> str:
    """Say whether the search's best is the best on fresh tasks too."""
    panels = comparison.panels
    alike = [p for p in panels if p.bank.order == (asked.ways, asked.shots)]
    panel = (alike or list(panels))[0]
    names = {finalist.label: finalist.name for finalist in finalists}
    order = [row.answers[0].model for row in panel.rows]
    at, chosen = order.index(finalists[0].label), finalists[0].name
    if at == 0:
        return f"{BEST} has the settings of {chosen}, which is first on the fresh tasks too."
    lag = panel.differences[0, at]
    where = "on other classes too" if lag.real_across_classes else "on these classes"
    verdict = (
        f"is really better {where}, by {amount(lag)}: prefer its settings, in {RESULTS}"
        if lag.real
        else f"is ahead by {amount(lag)}, which may be luck: either will do"
    )
    return (
        f"{BEST} has the settings of {chosen}, the search's best; on the fresh tasks "
        f"{names[order[0]]} {verdict}."
    )


def _classes(asked: ValidationConfig, fresh: FinalistsConfig, goals: Sequence[str]) -> str:
    chose = SCORE in goals
    if asked.split != fresh.split:
        return (
            f"The classes are those of split {fresh.split!r}, the search "
            f"{'was judged by' if chose else 'asked'} {asked.split!r}. What holds for the final, "
            f"novel classes: fewshot run {BEST}."
        )
    return (
        f"The tasks are new, their classes are not: they are those of split {fresh.split!r}, "
        f"{'by which the search chose' if chose else 'which the search asked too'}. The novel "
        f"classes are still to be asked: fewshot run {BEST}."
    )
