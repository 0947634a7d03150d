"""Where a sweep stands: what ended how, what was best, what is used up, how long it may take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuning.config import StudyConfig
from tuning.outcome import counts, own_trials

RECENT = 12
"""Trials by which the next ones are judged: the first of all also ran what all others share."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial at work.

    Attributes:
        number: of the trial in the study.
        percent: of the stage at work that is done, 0 to 100.
        value: latest validation accuracy, if any.
        since: when it began, or began again, in seconds since 1970.
    """

    number: int
    percent: int
    value: float | None
    since: float


@dataclass(frozen=True)
class Share:
    """How much of one budget is used up."""

    name: str
    used: float
    of: float


@dataclass(frozen=True)
class Standing:
    """A sweep at one moment.

    Attributes:
        trials: the study's own, in their order.
        running: those at work.
        waiting: how many were begun and wait for a free place.
        counts: how many trials of each outcome.
        known: trials taken from earlier studies.
        best: for each goal the best complete trial; empty before there is one.
        ran: stages that trials executed.
        reused: stages that trials found done.
        budget: what is used up.
        left: seconds until the budget is used up and all trials ended; None when not known yet.
        now: the moment, in seconds since 1970.
    """

    trials: Sequence[FrozenTrial]
    running: Sequence[RunningTrial]
    waiting: int
    counts: Mapping[str, int]
    known: int
    best: Sequence[FrozenTrial]
    ran: int
    reused: int
    budget: Sequence[Share]
    left: float | None
    now: float

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that ended, the latest last."""
        found = [trial for trial in self.trials if trial.state.is_finished()]
        return sorted(found, key=_finished)


def standing(
    config: StudyConfig,
    study: optuna.Study,
    running: Mapping[int, RunningTrial],
    now: float | None = None,
) -> Standing:
    """Return where a sweep stands.

    Args:
        config: the study's settings.
        study: its trials.
        running: those at work, by number.
        now: seconds since 1970; None takes the clock.
    """
    now = time.time() if now is None else now
    trials = own_trials(study)
    begun = sum(trial.state == TrialState.RUNNING for trial in trials)
    at_work = [running[number] for number in sorted(running)]
    budget = _budget(config, trials)
    return Standing(
        trials=trials,
        running=at_work,
        waiting=max(0, begun - len(at_work)),
        counts=counts(study),
        known=sum(bool(t.user_attrs.get("source")) for t in study.get_trials(deepcopy=False)),
        best=_best(study, trials),
        ran=sum(len(trial.user_attrs.get("ran", ())) for trial in trials),
        reused=sum(len(trial.user_attrs.get("reused", ())) for trial in trials),
        budget=budget,
        left=_left(trials, at_work, budget, now),
        now=now,
    )


def _best(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the best complete trial for each goal, the earliest of equals."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return []
    best = []
    for at, direction in enumerate(study.directions):
        values = [trial.values[at] for trial in complete]
        top = max(values) if direction == StudyDirection.MAXIMIZE else min(values)
        best.append(complete[values.index(top)])
    return best


def _budget(config: StudyConfig, trials: Sequence[FrozenTrial]) -> list[Share]:
    """Return what is used up, as the ledger counts it."""
    budget = config.budget
    shares = [Share("trials", len(trials), budget.trials)]
    if budget.epochs is not None:
        shares.append(Share("epochs", _total(trials, "epochs"), budget.epochs))
    if budget.device_hours is not None:
        hours = _total(trials, "device_seconds") / 3600
        shares.append(Share("device hours", hours, budget.device_hours))
    return shares


def _total(trials: Sequence[FrozenTrial], name: str) -> float:
    return float(sum(trial.user_attrs.get(name, 0.0) for trial in trials))


def _left(
    trials: Sequence[FrozenTrial],
    running: Sequence[RunningTrial],
    budget: Sequence[Share],
    now: float,
) -> float | None:
    """Return the seconds that are left, if the next trials cost what the latest did."""
    ended = sorted((trial for trial in trials if trial.state.is_finished()), key=_finished)
    latest = [trial.user_attrs.get("seconds", 0.0) for trial in ended][-RECENT:]
    if not any(latest):
        return None
    usual = fmean(latest)
    to_come = min(_trials_within(share, len(ended)) for share in budget)
    rests = [_rest(trial, usual, now - trial.since) for trial in running]
    return max([(sum(rests) + to_come * usual) / max(len(running), 1), *rests])


def _trials_within(share: Share, ended: int) -> float:
    """Return how many more trials may begin before a budget is used up."""
    left = max(0.0, share.of - share.used)
    if share.name == "trials":
        return left
    return left / (share.used / ended) if share.used else float("inf")


def _rest(trial: RunningTrial, usual: float, elapsed: float) -> float:
    """Return the seconds that a running trial may still take."""
    if elapsed < usual:
        return usual - elapsed
    return elapsed * (100 - trial.percent) / trial.percent if trial.percent else usual


def _finished(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("finished", ""))
