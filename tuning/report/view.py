"""A study as pages and tables show it: outcomes in words, settings without the recipe's prefix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tuning.config import StudyConfig
from tuning.outcome import Outcome
from tuning.report.words import Measure, measure

RUNNING = "running"
OUTCOMES = ("complete", "pruned", "infeasible", "failed", RUNNING)
PARAMETER_OF_RECIPE = "recipe"


@dataclass(frozen=True)
class TrialView:
    """One trial.

    Attributes:
        number: in the study.
        recipe: label of the recipe that it ran.
        outcome: one of `OUTCOMES`.
        reason: why it ended otherwise than complete.
        values: of the goals; empty unless complete.
        curve: (percent of the training, accuracy), as far as it came.
        settings: dotted key -> value; choices that are no plain value as JSON text.
        ranges: dotted key -> range.
        attributes: all else that the sweep noted.
    """

    number: int
    recipe: str
    outcome: str
    reason: str
    values: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]
    settings: Mapping[str, Any]
    ranges: Mapping[str, BaseDistribution]
    attributes: Mapping[str, Any]

    @property
    def source(self) -> str:
        """The earlier study that the trial was copied from, or nothing."""
        return str(self.attributes.get("source", ""))

    @property
    def percent(self) -> int:
        """How far its training came."""
        if self.outcome == "complete":
            return 100
        return self.curve[-1][0] if self.curve else 0

    @property
    def last(self) -> float | None:
        """The last accuracy that it reported."""
        return self.curve[-1][1] if self.curve else None

    def amount(self, name: str) -> float:
        """Return a number that the sweep noted, 0 where there is none."""
        return float(self.attributes.get(name, 0.0))


class StudyView:
    """A study, read once.

    Args:
        config: its settings.
        study: its trials.
    """

    def __init__(self, config: StudyConfig, study: optuna.Study) -> None:
        self.config = config
        self.measures = [measure(goal) for goal in config.goals]
        found = [view_of(trial, config) for trial in study.get_trials(deepcopy=False) if ran(trial)]
        self.known = [trial for trial in found if trial.source]
        """Trials of earlier studies, which the sampler was told."""
        self.trials = [trial for trial in found if not trial.source]
        """Trials of this study."""

    @property
    def measure(self) -> Measure:
        """The first goal."""
        return self.measures[0]

    @cached_property
    def complete(self) -> list[TrialView]:
        """Trials that came to their end, best first; in order of number with several goals."""
        done = [trial for trial in self.trials if trial.outcome == "complete"]
        return done if len(self.measures) > 1 else self.ranked(done)

    @cached_property
    def front(self) -> list[TrialView]:
        """The best trial, or with several goals all that none is better than in everything."""
        done = self.complete
        if len(self.measures) == 1:
            return done[:1]
        return [t for t in done if not any(self._dominates(other, t) for other in done)]

    @cached_property
    def recipes(self) -> list[str]:
        """Labels of the recipes, in the order of the study file."""
        return list(self.config.recipes)

    def of(self, recipe: str) -> list[TrialView]:
        """Return the trials of one recipe."""
        return [trial for trial in self.trials if trial.recipe == recipe]

    def leaders(self, recipe: str) -> set[int]:
        """Return the best trial of a recipe, or with several goals those of it on the front."""
        if len(self.measures) > 1:
            return {trial.number for trial in self.front if trial.recipe == recipe}
        return {trial.number for trial in [t for t in self.complete if t.recipe == recipe][:1]}

    def ranked(self, trials: Sequence[TrialView]) -> list[TrialView]:
        """Return complete trials by the first goal, best first."""
        sign = -1 if self.measure.maximize else 1
        return sorted(trials, key=lambda trial: (sign * trial.values[0], trial.number))

    def counts(self) -> dict[str, int]:
        """Return how many trials there are of each outcome."""
        return {o: sum(trial.outcome == o for trial in self.trials) for o in OUTCOMES}

    def keys(self, trials: Sequence[TrialView]) -> list[str]:
        """Return the settings that were searched in some trials."""
        return list(dict.fromkeys(key for trial in trials for key in trial.ranges))

    def _dominates(self, one: TrialView, other: TrialView) -> bool:
        pairs = list(zip(self.measures, one.values, other.values, strict=True))
        return any(m.better(a, b) for m, a, b in pairs) and not any(
            m.better(b, a) for m, a, b in pairs
        )


def ran(trial: FrozenTrial) -> bool:
    """Return whether a trial is to be shown: not those that never began."""
    return (
        trial.state != TrialState.WAITING
        and trial.user_attrs.get("outcome") != Outcome.REPEAT
        and (trial.state != TrialState.RUNNING or "recipe" in trial.user_attrs)
    )


def outcome_of(trial: FrozenTrial) -> str:
    """Return how a trial ended, one of `OUTCOMES`."""
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    if not trial.state.is_finished():
        return RUNNING
    return str(trial.user_attrs.get("outcome", states.get(trial.state, "failed")))


def view_of(trial: FrozenTrial, config: StudyConfig) -> TrialView:
    """Return one trial of a study with these settings."""
    attributes = dict(trial.user_attrs)
    recipe = trial.params.get(PARAMETER_OF_RECIPE) or attributes.get("recipe") or ""
    if len(config.recipes) == 1:
        recipe = next(iter(config.recipes))
    prefix = f"{recipe}." if len(config.recipes) > 1 else ""
    return TrialView(
        number=trial.number,
        recipe=recipe,
        outcome=outcome_of(trial),
        reason=attributes.get("reason", ""),
        values=tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
        curve=tuple(sorted(trial.intermediate_values.items())),
        settings={
            name.removeprefix(prefix): value
            for name, value in trial.params.items()
            if name != PARAMETER_OF_RECIPE
        },
        ranges={
            name.removeprefix(prefix): domain
            for name, domain in trial.distributions.items()
            if name != PARAMETER_OF_RECIPE
        },
        attributes=attributes,
    )
