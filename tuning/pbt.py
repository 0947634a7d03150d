"""Runs a population on Ray Tune, and writes what became of its members into the study.

Unlike a search it is one experiment, whose state is Tune's: after a kill Tune's snapshot is
restored, and the members go on from its checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator

from data_shards.location import Location
from fsl.errors import ConfigError, StageError
from fsl.search_space import Choice, Domain, IntRange
from pipelines.train_config import TrainConfig
from tuning.buildable import with_network
from tuning.candidate import Branch
from tuning.config import StudyConfig
from tuning.outcome import Outcome
from tuning.population import HISTORY, Member, MemberJob, check_changeable, check_same_network
from tuning.ranges import distribution, encoded, ends
from tuning.resources import check_all_fit, need_of, ray_for
from tuning.space import Space
from tuning.store import StudyStore
from tuning.tuner import prepare_tune

MEMBERS, SNAPSHOTS = "population", "tune"
BEGUN, DONE = "population_begun", "population"
"""Attributes of the study: how many members have begun, and have all been written down."""


def run_population(config: StudyConfig, space: Space, store: StudyStore) -> None:
    """Train the population to its end.

    Raises:
        ConfigError: something searched cannot change in the middle of a training.
        FewShotError: the members do not all fit at once.
        KeyboardInterrupt: stopped by hand; the same call goes on.
    """
    noted = store.study.user_attrs
    members = noted.get(DONE, noted.get(BEGUN, config.budget.trials))
    if members != config.budget.trials:
        raise ConfigError(
            f"budget.trials: {config.budget.trials}, but this population has {members} members, "
            f"whose number is fixed from its start; set it to {members}, or use another study_dir"
        )
    if DONE in noted:
        return
    (branch,) = space.branches.values()
    job = member_job(config, branch)
    if config.root.local is None or config.trials.launcher != "local":
        raise ConfigError(
            "population: members keep their checkpoints on this machine's disk; use a study_dir on "
            "disk and trials.launcher: local"
        )
    with ray_for(config):
        tuner = _tuner(config, space, branch, job, config.root.local / SNAPSHOTS)
        store.study.set_user_attr(BEGUN, config.budget.trials)
        members = _train(tuner)
    _write_down(config, branch, store)
    store.study.set_user_attr(DONE, members)
    store.sync()


def _tuner(
    config: StudyConfig, space: Space, branch: Branch, job: MemberJob, folder: Path
) -> tune.Tuner:
    """Return what trains the members, from Tune's last snapshot if there is one."""
    need = need_of(config, space)
    check_all_fit(config, need)
    prepare_tune()
    trainable = tune.with_resources(Member, dict(need.trial))
    domains = {dimension.name: tune_domain(dimension.domain) for dimension in branch.dimensions}
    if tune.Tuner.can_restore(str(folder / "sweep")):
        return tune.Tuner.restore(
            str(folder / "sweep"), trainable, resume_unfinished=True, restart_errored=True
        )
    return tune.Tuner(
        trainable,
        param_space={"job": job.to_json(), **domains},
        tune_config=tune.TuneConfig(
            search_alg=first_settings(config),
            scheduler=_scheduler(config, branch),
            num_samples=config.budget.trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=config.trials.retries),
        ),
    )


def _train(tuner: tune.Tuner) -> int:
    """Let Ray Tune train the members to their end; return how many there are."""
    results = tuner.fit()
    if results.errors:
        first = " ".join(str(results.errors[0]).strip().splitlines()[-1:])
        raise StageError(
            f"population: {len(results.errors)} of {len(results)} members failed: {first}; narrow "
            "the ranges, remove the cause, and run the same command again"
        )
    if not all((results[n].metrics or {}).get("done") for n in range(len(results))):
        raise KeyboardInterrupt
    return len(results)


def first_settings(config: StudyConfig) -> BasicVariantGenerator:
    """Return what draws the settings that members begin with."""
    return BasicVariantGenerator(random_state=config.seed)


def member_job(config: StudyConfig, branch: Branch) -> MemberJob:
    """Return what the members are told, after checking that it can be done."""
    assert config.population is not None
    every = {
        f"stages.{branch.objective}.validation.every_epochs": config.population.interval_epochs
    }
    for dimension in branch.dimensions:
        check_changeable(dimension.key, branch.objective)
        values = ends(dimension.domain)
        check_same_network(dimension.key, [_judged(branch, dimension.key, v) for v in values])
    recipe = branch.recipe(every)
    keys = {dimension.name: dimension.key for dimension in branch.dimensions}
    place = str(config.root / MEMBERS)
    return MemberJob(recipe.model_dump(mode="json"), branch.objective, keys, place)


def _judged(branch: Branch, key: str, value: Any) -> TrainConfig:
    """Return the judged stage's settings with this value, images and network filled in."""
    recipe = branch.recipe({key: value})
    stages = [stage for stage in recipe.stages.values() if isinstance(stage, TrainConfig)]
    return with_network(branch.judged(recipe), stages)


def tune_domain(domain: Domain) -> Any:
    """Return a range as Ray Tune has it."""
    if isinstance(domain, Choice):
        return tune.choice([encoded(option) for option in domain.options])
    if isinstance(domain, IntRange):
        if domain.log:
            return tune.lograndint(domain.low, domain.high + 1)
        return tune.qrandint(domain.low, domain.high, domain.step)
    if domain.log:
        return tune.loguniform(domain.low, domain.high)
    return tune.uniform(domain.low, domain.high)


def _scheduler(config: StudyConfig, branch: Branch) -> PopulationBasedTraining:
    assert config.population is not None
    domains = {dimension.name: dimension.domain for dimension in branch.dimensions}
    return PopulationBasedTraining(
        time_attr="training_iteration",
        metric="value",
        mode="max",
        perturbation_interval=1,
        hyperparam_mutations={name: mutation(domain) for name, domain in domains.items()},
        custom_explore_fn=partial(within, domains),
        quantile_fraction=config.population.quantile,
        resample_probability=config.population.resample,
        log_config=False,
    )


def mutation(domain: Domain) -> Any:
    """Return a range as Tune changes it: choices to a neighbour, numbers by a factor."""
    if isinstance(domain, Choice):
        return [encoded(option) for option in domain.options]
    return tune_domain(domain)


def within(domains: Mapping[str, Domain], changed: dict[str, Any]) -> dict[str, Any]:
    """Return changed settings put back into their ranges, whole numbers on their steps."""
    kept = dict(changed)
    for name, domain in domains.items():
        if isinstance(domain, Choice):
            continue
        value = min(max(kept[name], domain.low), domain.high)
        if isinstance(domain, IntRange):
            value = domain.low + domain.step * round((value - domain.low) / domain.step)
        kept[name] = value
    return kept


def _write_down(config: StudyConfig, branch: Branch, store: StudyStore) -> None:
    """Write one trial per member: its last settings and accuracy, and its way there."""
    ranges = {dimension.name: distribution(dimension.domain) for dimension in branch.dimensions}
    folders = [item for item in (config.root / MEMBERS).list() if item.is_dir()]
    written = {trial.user_attrs.get("member") for trial in store.study.trials}
    for folder in sorted(folders, key=lambda item: item.name):
        if folder.name in written:  # of a call that was killed here
            continue
        lines = [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]
        last = lines[-1]
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=last["value"],
            params=last["params"],
            distributions=ranges,
            intermediate_values={line["percent"]: line["value"] for line in lines},
            user_attrs={
                "member": folder.name,
                "recipe": branch.label,
                "outcome": str(Outcome.COMPLETE),
                "reason": "",
                "infeasible": [0.0],
                "epochs": last["epochs"],
                "metrics": {"val_accuracy": last["value"]},
            },
        )
        store.study.add_trial(trial)
    store.sync()


def best_member(root: Location, study: optuna.Study) -> Location:
    """Return the directory of the best member; its last checkpoint is its model."""
    return root / MEMBERS / str(study.best_trial.user_attrs["member"])
