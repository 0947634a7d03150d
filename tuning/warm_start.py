"""What earlier studies found, copied into a new one: its sampler then knows from the start.

Only trials of the same data and length that searched the same settings by name, with values inside
the new ranges, under the same goals and the same sort of validation tasks, say anything about the
new study.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from data_shards.location import Location
from fsl.errors import ConfigError, FewShotError
from tuning.config import StudyConfig
from tuning.ranges import distribution, fitting
from tuning.same_data import data_of
from tuning.samplers import CONSTRAINT, INFEASIBLE
from tuning.space import RECIPE, Space, build_space, judged_by
from tuning.store import StudyStore, read_study

SOURCE = "source"
"""Attribute of a copied trial: study directory and number there."""
DONE = "warm_started"
"""Attribute of the study: what was copied already; it is not needed again."""
KEPT = ("outcome", "reason", INFEASIBLE, "metrics", "epochs")
"""Attributes that stay true."""
MAY_DIFFER = ("validation.queries", "validation.tasks")
"""How many questions of the same kind were asked."""
TOLD = (TrialState.COMPLETE, TrialState.PRUNED)
"""Trials from which a sampler learns."""


def warm_start(config: StudyConfig, space: Space, store: StudyStore) -> int:
    """Copy the fitting trials of `warm_start` into a study, once; return how many it has of them.

    Raises:
        ConfigError: an earlier study is not there, or nothing in it fits.
    """
    done: list[str] = list(store.study.user_attrs.get(DONE, []))
    for text in config.warm_start:
        if text not in done:
            for trial in fitting_trials(config, space, text, store.study):
                if trial.user_attrs[SOURCE] not in _sources(store):
                    store.study.add_trial(trial)
            done.append(text)
            store.study.set_user_attr(DONE, done)
            store.sync()
    return len(_sources(store))


def fitting_trials(
    config: StudyConfig, space: Space, text: str, own: optuna.Study
) -> list[FrozenTrial]:
    """Return the trials of an earlier study that say something about this one, as it has them.

    Args:
        config: settings of the new study.
        space: what it searches.
        text: directory or URI of the earlier one.
        own: the new study.

    Raises:
        ConfigError: it is not there, or nothing in it fits.
    """
    where = f"warm_start: {text}"
    root = Location.parse(text)
    if root == config.root:
        raise ConfigError(f"{where}: is this study itself; name an earlier one")
    try:
        earlier, study = read_study(root)
        before = build_space(earlier)
    except FewShotError as error:
        raise ConfigError(f"{where}: {error}") from None
    _check_alike(where, earlier, before, config, space)
    _check_same_data(where, study, own)
    finished = [t for t in study.get_trials(deepcopy=False) if t.state in TOLD]
    if not finished:
        raise ConfigError(f"{where}: has no finished trial; leave it out")
    adopted = [_adopted(trial, space, root) for trial in finished]
    found = [trial for trial in adopted if trial is not None]
    if not found:
        raise ConfigError(
            f"{where}: none of its {len(finished)} finished trials fits: they have the settings "
            f"{', '.join(sorted(finished[-1].params))}, this study searches {_names(space)}, "
            "within its own ranges; leave it out"
        )
    return found


def _check_alike(
    where: str, earlier: StudyConfig, before: Space, config: StudyConfig, space: Space
) -> None:
    """Refuse a study whose values are of something else."""
    one = [goal.metric for goal in earlier.goals]
    two = [goal.metric for goal in config.goals]
    if one != two:
        raise ConfigError(f"{where}: its goals are {', '.join(one)}, not {', '.join(two)}")
    then, now = (_judged(each) for each in (before, space))
    for name in sorted((then.keys() | now.keys()) - set(MAY_DIFFER)):
        if then.get(name) != now.get(name):
            raise ConfigError(
                f"{where}: judged with {name}: {then.get(name)!r}, this study with "
                f"{now.get(name)!r}, so their accuracies cannot be compared; leave it out, or "
                "try its best settings as points"
            )


def _judged(space: Space) -> dict[str, Any]:
    """Return what the accuracies of a study depend on besides what it searches."""
    branch = next(iter(space.branches.values()))
    stage = branch.judged()
    length = {"optim.epochs": stage.optim.epochs}
    searched = {dimension.key for dimension in branch.dimensions}
    fixed = {k: v for k, v in length.items() if f"stages.{branch.objective}.{k}" not in searched}
    return judged_by(stage) | fixed


def _check_same_data(where: str, earlier: optuna.Study, own: optuna.Study) -> None:
    """Refuse a study of other data, as far as the two have noted theirs."""
    then, now = data_of(earlier), data_of(own)
    if then is not None and now is not None and then != now:
        raise ConfigError(
            f"{where}: its trials are of other data, so their accuracies cannot be compared; leave "
            "it out, or try its best settings as points"
        )


def _adopted(trial: FrozenTrial, space: Space, root: Location) -> FrozenTrial | None:
    """Return a trial as this study would have it, or None when it does not fit."""
    ranges = _distributions(space, trial.params.get(RECIPE))
    if ranges is None or ranges.keys() != trial.params.keys():
        return None
    try:
        params = {
            name: value if name == RECIPE else fitting(space.domain(name), value)
            for name, value in trial.params.items()
        }
    except ValueError:
        return None
    attrs = {name: value for name, value in trial.user_attrs.items() if name in KEPT}
    source = trial.user_attrs.get(SOURCE, f"{root}#{trial.number}")
    label = space.branch_of(params).label
    return create_trial(
        state=trial.state,
        values=trial.values if trial.state == TrialState.COMPLETE else None,
        params=params,
        distributions=ranges,
        user_attrs={**attrs, SOURCE: source, "recipe": label},
        system_attrs={CONSTRAINT: 1.0} if any(attrs.get(INFEASIBLE, ())) else {},
        intermediate_values=trial.intermediate_values,
    )


def _distributions(space: Space, label: Any) -> dict[str, BaseDistribution] | None:
    """Return the ranges of the settings that trials of one recipe have."""
    labels = list(space.branches)
    picked: dict[str, BaseDistribution] = {}
    if len(labels) > 1:
        if label not in labels:
            return None
        picked[RECIPE] = CategoricalDistribution(labels)
    branch = space.branch_of({RECIPE: label})
    return picked | {d.name: distribution(d.domain) for d in branch.dimensions}


def _names(space: Space) -> str:
    names: Sequence[str] = [d.name for b in space.branches.values() for d in b.dimensions]
    return ", ".join(sorted(names))


def _sources(store: StudyStore) -> set[str]:
    trials = store.study.get_trials(deepcopy=False)
    return {trial.user_attrs[SOURCE] for trial in trials if SOURCE in trial.user_attrs}
