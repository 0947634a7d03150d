"""What a search cost: trials, epochs, device time, and what sharing of stages saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tuning.outcome import Outcome
from tuning.report.view import OUTCOMES, RUNNING, StudyView, TrialView
from tuning.report.words import counted
from tuning.words import OUTCOME_WORDS


@dataclass(frozen=True)
class CostRow:
    """The trials of one outcome, or all.

    Attributes:
        name: the outcome in words.
        trials: how many.
        epochs: of the judged stages.
        hours: device hours.
        share: of all device hours, 0 to 1.
    """

    name: str
    trials: int
    epochs: float
    hours: float
    share: float


@dataclass(frozen=True)
class StageRow:
    """One stage of the recipes.

    Attributes:
        label: its name in a recipe.
        settings: how many different settings it was needed with.
        ran: how often a trial executed it.
        reused: how often a trial found it done.
    """

    label: str
    settings: int
    ran: int
    reused: int


def cost_rows(view: StudyView) -> list[CostRow]:
    """Return a row per outcome there is, and the sum."""
    rows = []
    total = _hours(view.trials)
    for outcome in OUTCOMES:
        own = [trial for trial in view.trials if trial.outcome == outcome]
        if own:
            rows.append(_row(outcome_words(outcome), own, total))
    return [*rows, _row("together", view.trials, total)]


def outcome_words(outcome: str) -> str:
    """Return how a trial ended, in words."""
    return "running" if outcome == RUNNING else OUTCOME_WORDS[Outcome(outcome)]


def stage_rows(view: StudyView) -> list[StageRow]:
    """Return the stages that trials needed, in the order they were first seen."""
    ran: Counter[str] = Counter()
    reused: Counter[str] = Counter()
    folders: dict[str, set[str]] = {}
    for trial in view.trials:
        ran.update(trial.attributes.get("ran", ()))
        reused.update(trial.attributes.get("reused", ()))
        for label, folder in trial.attributes.get("stages", {}).items():
            folders.setdefault(label, set()).add(folder)
    return [StageRow(label, len(f), ran[label], reused[label]) for label, f in folders.items()]


def budget_words(view: StudyView) -> list[str]:
    """Return how much of each budget is used up."""
    budget = view.config.budget
    words = [f"{len(view.trials)} of {counted(budget.trials, 'trial')}"]
    if budget.epochs is not None:
        used = sum(trial.amount("epochs") for trial in view.trials)
        words.append(f"{used:.0f} of {budget.epochs:g} epochs")
    if budget.device_hours is not None:
        words.append(f"{_hours(view.trials):.2f} of {budget.device_hours:g} device hours")
    return words


def _row(name: str, trials: Sequence[TrialView], total: float) -> CostRow:
    hours = _hours(trials)
    epochs = sum(trial.amount("epochs") for trial in trials)
    return CostRow(name, len(trials), epochs, hours, hours / total if total else 0.0)


def _hours(trials: Sequence[TrialView]) -> float:
    return sum(trial.amount("device_seconds") for trial in trials) / 3600
