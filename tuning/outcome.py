"""What a trial is told to do, and what it says of itself: plain values that travel as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


class Outcome(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    """Out of memory, a loss that is not finite, collapse, settings that contradict each other."""
    FAILED = "failed"
    """A fault that says nothing about the settings."""
    REPEAT = "repeat"
    """Asked twice, and so never run: not a trial of the study."""


STATES = {
    Outcome.COMPLETE: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.INFEASIBLE: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
    Outcome.REPEAT: TrialState.FAIL,
}
"""State in the study. Samplers learn from pruned trials, and not from failed ones."""


@dataclass(frozen=True)
class TrialJob:
    """All that the process of a trial needs to know.

    Attributes:
        number: of the trial in the study.
        recipe: the pipeline to run, as a plain mapping.
        objective: label of the train stage that is judged.
        metrics: names of the goals' numbers in that stage's result.
        devices: GPUs, or without any CPUs, that the trial holds.
    """

    number: int
    recipe: Mapping[str, Any]
    objective: str
    metrics: Sequence[str]
    devices: float = 1.0

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialJob:
        """Return what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class TrialNews:
    """What a trial reports: after each validation, and at its end.

    Attributes:
        outcome: None while it runs.
        reason: why it ended otherwise than complete, in words.
        stage: label of the stage at work.
        percent: of that stage's training that is done, 0 to 100.
        value: validation accuracy at this point, of the objective stage only.
        curve: such values by percent, of earlier attempts too, up to this point.
        values: the goals' numbers, when complete.
        epochs: of the objective stage that are trained.
        seconds: wall time of this attempt.
        device_seconds: that, times the devices held.
        stages: directory name of each stage begun or found, by label.
        ran: labels of the stages that this attempt executed.
        reused: labels of those it found done.
        metrics: numbers of the objective stage.
    """

    outcome: Outcome | None = None
    reason: str = ""
    stage: str = ""
    percent: int = 0
    value: float | None = None
    curve: Mapping[str, float] = field(default_factory=dict)
    values: Sequence[float] | None = None
    epochs: float = 0.0
    seconds: float = 0.0
    device_seconds: float = 0.0
    stages: Mapping[str, str] = field(default_factory=dict)
    ran: Sequence[str] = ()
    reused: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialNews:
        """Return what `to_json` wrote."""
        values = json.loads(text)
        outcome = values.pop("outcome")
        return cls(outcome=None if outcome is None else Outcome(outcome), **values)


def identity(params: Mapping[str, Any]) -> str:
    """Return what two trials with the same parameters have in common."""
    return json.dumps(dict(params), sort_keys=True)


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials of this study: not those copied from others, nor those never run."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.WAITING
        and not trial.user_attrs.get("source")
        and trial.user_attrs.get("outcome") != Outcome.REPEAT
    ]


def counts(study: optuna.Study) -> dict[str, int]:
    """Return how many trials of each outcome there are, and how many run."""
    found = {str(outcome): 0 for outcome in Outcome if outcome is not Outcome.REPEAT} | {
        "running": 0
    }
    for trial in own_trials(study):
        found[trial.user_attrs.get("outcome", "running")] += 1
    return found
