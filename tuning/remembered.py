"""What a sampler remembers of a long study: the best trials and the latest ones.

Samplers read the whole study for every suggestion; a Gaussian process takes the cube of its length.
With a limit a suggestion takes as long after a thousand trials as after some hundred. Below the
limit nothing changes.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

LIMIT = 250
"""Trials that a sampler sees."""
BEST = 100
"""How many of them are there for their values; TPE's good ones are at most 25."""
TELLING = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class Remembered:
    """Stands for a study towards a sampler, for one suggestion, with fewer trials."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @cached_property
    def _kept(self) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False)
        return remembered(trials, [str(d.name) for d in self._study.directions])

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        del use_cache
        found = [trial for trial in self._kept if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials that are remembered."""
        return self._get_trials(deepcopy, states)


def remembered(trials: Sequence[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """Return at most `LIMIT` trials, by number: the best in each goal, those that run, the latest.

    Beyond the limit, trials that tell nothing are left out first: failed and waiting ones.

    Args:
        trials: of a study, by number.
        directions: MAXIMIZE or MINIMIZE for each goal.
    """
    if len(trials) <= LIMIT:
        return list(trials)
    trials = [trial for trial in trials if trial.state in TELLING]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    kept = {trial.number for trial in trials if trial.state == TrialState.RUNNING}
    for goal, direction in enumerate(directions):
        ordered = sorted(
            complete, key=lambda trial: trial.values[goal], reverse=direction == "MAXIMIZE"
        )
        kept |= {trial.number for trial in ordered[: BEST // len(directions)]}
    for trial in reversed(trials):
        if len(kept) >= LIMIT:
            break
        kept.add(trial.number)
    return [trial for trial in trials if trial.number in kept]


class ShortMemory(optuna.samplers.BaseSampler):
    """Before a sampler among the base classes: makes it see the remembered trials only."""

    _memory: tuple[int, Any] = (-1, None)

    def _remembered(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        """Return what stands for the study; one for all that is asked about a trial."""
        if self._memory[0] != trial.number:
            self._memory = trial.number, Remembered(study)
        return self._memory[1]

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what can be sampled together; see Optuna."""
        seen = self._remembered(study, trial)
        return super().infer_relative_search_space(seen, trial)  # type: ignore[safe-super]

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return settings sampled together; see Optuna."""
        seen = self._remembered(study, trial)
        return super().sample_relative(seen, trial, search_space)  # type: ignore[safe-super]

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return one setting; see Optuna."""
        seen = self._remembered(study, trial)
        return super().sample_independent(seen, trial, param_name, param_distribution)  # type: ignore[safe-super]
