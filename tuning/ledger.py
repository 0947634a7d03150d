"""Asking and telling a study so that every trial exists once, whatever is killed.

The study's journal is the only record. A trial that is RUNNING in it when a sweep begins was
interrupted: it is handed out again with the same settings, and its stages go on where they were.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from fsl.errors import ConfigError, StageError
from tuning.config import StudyConfig
from tuning.outcome import STATES, Outcome, TrialJob, TrialNews, identity, own_trials
from tuning.ranges import draw, encoded
from tuning.samplers import build_sampler
from tuning.space import RECIPE, Space
from tuning.store import StudyStore
from tuning.untried import Endless, untried

REPEATS = 5
"""Suggestions in a row that were tried before: the sampler has nothing new to say."""
IMPOSSIBLE = 100
"""Suggestions in a row that contradict each other."""
SAME_FAULT = {str(Outcome.FAILED): 3, str(Outcome.INFEASIBLE): 8}
"""So many trials, and no others, that end for the same reason: it is not their settings."""
KEY = re.compile(r"[0-9a-f]{12,}|trial_\d+")
"""What differs from trial to trial in the words of one fault: names of directories."""


class Ledger:
    """The study of a sweep, as its trials see it.

    Args:
        config: the study's settings.
        space: what is searched.
        store: the opened study.
        devices: GPUs, or without any CPUs, that one trial holds.
    """

    def __init__(
        self, config: StudyConfig, space: Space, store: StudyStore, devices: float = 1.0
    ) -> None:
        self.config, self.space, self.store, self.devices = config, space, store, devices
        self.study = store.study
        self.over = ""
        """Why no further trial is begun, in words; "" while there may be some."""
        self._trials: dict[int, optuna.Trial] = {}
        self._before: dict[int, Mapping[str, Any]] = {}  # attributes of earlier attempts
        self._interrupted = [
            trial for trial in self.study.get_trials() if trial.state == TrialState.RUNNING
        ]
        self._seen = {
            identity(trial.params)
            for trial in own_trials(self.study)
            if (_begun(trial) or trial.state.is_finished())
            and trial.user_attrs.get("outcome") != Outcome.FAILED  # no fault of its settings
        }

    def next(self) -> TrialJob | None:
        """Return what to run next, or None when the budget is used up or nothing is left.

        Raises:
            ConfigError: the settings contradict each other wherever one looks.
        """
        repeats = impossible = 0
        while (trial := self._ask()) is not None:
            params = self.space.suggest(trial)
            begun = _begun(self._frozen(trial.number))
            if not begun and identity(params) in self._seen:
                self._end(trial.number, Outcome.REPEAT, "asked before")
                repeats += 1
                if repeats % REPEATS == 0 and not self._propose_new(trial.number):
                    return None
                continue
            self._seen.add(identity(params))
            try:
                return self._begin(trial, params)
            except ConfigError as error:
                self._end(trial.number, Outcome.INFEASIBLE, str(error))
                impossible += 1
                if impossible == IMPOSSIBLE:
                    raise ConfigError(
                        f"search: {IMPOSSIBLE} combinations in a row are impossible, the last one: "
                        f"{error}; narrow the ranges"
                    ) from None
        return None

    def _propose_new(self, number: int) -> bool:
        """Let the next trial be one that was not tried; return False when all were.

        A sampler does not learn from repeats, so it may name the same best settings for ever.
        """
        seed = f"{self.config.seed}/{number}"
        try:
            params = untried(self.space, self._seen, seed)
        except Endless:
            generator = random.Random(seed)
            label = generator.choice(list(self.space.branches))
            several = len(self.space.branches) > 1
            params = {RECIPE: label} if several else {}
            for dimension in self.space.branches[label].dimensions:
                params[dimension.name] = encoded(draw(dimension.domain, generator))
        if params is None:
            self.over = "every combination in the ranges has been tried"
            return False
        self.study.enqueue_trial(params)
        return True

    def has_more(self) -> bool:
        """Return whether anything is left to run."""
        return bool(self._interrupted) or not self._spent()

    def running(self) -> bool:
        """Return whether trials were begun that have not ended."""
        return bool(self._running())

    def handed_back(self) -> bool:
        """Return whether trials are to be handed out once more, and no others run."""
        return {trial.number for trial in self._interrupted} == self._running() != set()

    def record(self, number: int, news: TrialNews) -> bool:
        """Write down what a trial reports; return whether it is to be pruned."""
        self._tally(number, news)
        if news.value is None or len(self.config.goals) > 1:
            return False
        self._plot(number, news)
        self.store.sync()
        reached = max(self._frozen(number).intermediate_values)  # perhaps further than the news
        return reached < 100 and bool(self._trials[number].should_prune())

    def finish(self, number: int, news: TrialNews) -> None:
        """Close a trial that ended by itself."""
        assert news.outcome is not None
        self._tally(number, news)
        self._plot(number, news)
        values, outcome, reason = news.values, news.outcome, news.reason
        if outcome is Outcome.COMPLETE and not all(map(math.isfinite, values or [math.nan])):
            values, outcome, reason = None, Outcome.INFEASIBLE, f"goals are not finite: {values}"
        self._end(number, outcome, reason, values)

    def prune(self, number: int) -> None:
        """Close a trial that `record` said to prune."""
        percents = self._frozen(number).intermediate_values
        at = f"stopped at {max(percents)} %" if percents else "stopped"
        self._end(number, Outcome.PRUNED, f"{at}: others were better there")

    def lost(self, number: int, reason: str) -> None:
        """Close a trial whose process died again and again."""
        out = "OutOfMemory" in reason or "out of memory" in reason
        self._end(number, Outcome.INFEASIBLE if out else Outcome.FAILED, reason)

    def again(self, number: int) -> None:
        """Hand a running trial out once more, next."""
        self._interrupted.append(self._frozen(number))

    def restarted(self, number: int) -> None:
        """Note that the process of a trial died and is started anew."""
        attrs = self._frozen(number).user_attrs
        self._before[number] = attrs
        self._set(number, attempts=attrs.get("attempts", 1) + 1)

    def refuse_hopeless(self) -> None:
        """Raise StageError when all there was so far is the same failure."""
        ended = [trial for trial in own_trials(self.study) if trial.state.is_finished()]
        told = [(t.user_attrs.get("outcome"), t.user_attrs.get("reason", "")) for t in ended]
        if len({(outcome, KEY.sub("", reason)) for outcome, reason in told}) != 1:
            return
        outcome, reason = told[-1]
        if len(ended) >= SAME_FAULT.get(outcome or "", len(ended) + 1):
            raise StageError(
                f"the first {len(ended)} trials failed for the same reason, so the sweep ends: "
                f"{reason}"
            )

    def _running(self) -> set[int]:
        trials = own_trials(self.study)
        return {trial.number for trial in trials if trial.state == TrialState.RUNNING}

    def _ask(self) -> optuna.Trial | None:
        """Return an interrupted trial or a new one; its settings may still have to be drawn."""
        if self._interrupted:
            trial = self._interrupted.pop(0)
            self.study.sampler = build_sampler(self.config, trial.number)
            return optuna.Trial(self.study, trial._trial_id)
        if self._spent():
            return None
        trials = self.study.get_trials(deepcopy=False)
        number = sum(trial.state != TrialState.WAITING for trial in trials)
        self.study.sampler = build_sampler(self.config, number)
        return self.study.ask()

    def _begin(self, trial: optuna.Trial, params: Mapping[str, Any]) -> TrialJob:
        """Hand a trial out, for the first time or once more."""
        self._trials[trial.number] = trial
        job = self._job(trial.number, params)
        if _begun(self._frozen(trial.number)):
            self.restarted(trial.number)
        else:
            recipe = self.space.branch_of(params).label
            self._set(trial.number, started=_now(), recipe=recipe, attempts=1)
        self.store.sync()
        return job

    def _job(self, number: int, params: Mapping[str, Any]) -> TrialJob:
        recipe = self.space.trial_recipe(params)
        return TrialJob(
            number,
            recipe.model_dump(mode="json"),
            self.space.branch_of(params).objective,
            [goal.metric for goal in self.config.goals],
            self.devices,
        )

    def _spent(self) -> bool:
        """Say whether no further trial may begin, and remember why."""
        budget, trials = self.config.budget, own_trials(self.study)
        if len(trials) >= budget.trials:
            self.over = f"{budget.trials} trials were run"
        elif budget.epochs is not None and _sum(trials, "epochs") >= budget.epochs:
            self.over = f"{budget.epochs:g} epochs were trained"
        elif (
            budget.device_hours is not None
            and _sum(trials, "device_seconds") / 3600 >= budget.device_hours
        ):
            self.over = f"{budget.device_hours:g} device hours were used"
        return bool(self.over)

    def _plot(self, number: int, news: TrialNews) -> None:
        """Write down the values on the way that are not there yet."""
        if len(self.config.goals) > 1:
            return
        known = self._frozen(number).intermediate_values
        points = {int(percent): value for percent, value in news.curve.items()}
        if news.value is not None:
            points[news.percent] = news.value
        for percent in sorted(points.keys() - known.keys()):
            self._trials[number].report(points[percent], percent)

    def _tally(self, number: int, news: TrialNews) -> None:
        """Add this attempt's cost to that of the earlier ones."""
        before = self._before.get(number, {})
        executed = [*before.get("ran", []), *news.ran]
        self._set(
            number,
            epochs=max(before.get("epochs", 0.0), news.epochs),
            seconds=before.get("seconds", 0.0) + news.seconds,
            device_seconds=before.get("device_seconds", 0.0) + news.device_seconds,
            stages=dict(news.stages),
            ran=list(dict.fromkeys(executed)),
            reused=[label for label in news.reused if label not in executed],
            metrics=dict(news.metrics),
        )

    def _end(self, number: int, outcome: Outcome, reason: str, values: Any = None) -> None:
        infeasible = [1.0 if outcome is Outcome.INFEASIBLE else 0.0]
        self._set(
            number,
            outcome=str(outcome),
            reason=" ".join(reason.split()),
            infeasible=infeasible,
            finished=_now(),
        )
        state = STATES[outcome]
        told = values if state == TrialState.COMPLETE else None
        self.study.tell(number, told, state=state, skip_if_finished=True)
        self._trials.pop(number, None)
        self.store.sync()

    def _set(self, number: int, **attributes: Any) -> None:
        """Write attributes that changed."""
        frozen = self._frozen(number)
        for key, value in attributes.items():
            if frozen.user_attrs.get(key) != value:
                self.study._storage.set_trial_user_attr(frozen._trial_id, key, value)

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]


def _sum(trials: Sequence[FrozenTrial], attribute: str) -> float:
    return float(sum(trial.user_attrs.get(attribute, 0.0) for trial in trials))


def _begun(trial: FrozenTrial) -> bool:
    """Return whether a trial was handed out, and not only asked for."""
    return "attempts" in trial.user_attrs


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
