"""The space that a study searches: its recipes, and from parameters to recipes and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from fsl.errors import ConfigError, FewShotError
from fsl.search_space import Choice, Domain
from pipelines.runner import PipelineConfig, plan
from pipelines.stages.write_shards import WriteShardsConfig
from pipelines.train_config import TrainConfig
from tuning.buildable import check_buildable
from tuning.candidate import Branch, build_branch
from tuning.config import StudyConfig
from tuning.points import point_params
from tuning.ranges import suggest_one
from tuning.search_keys import Dimension

__all__ = ["Branch", "Dimension", "Space", "build_space", "describe", "suggest_one"]
RECIPE = "recipe"
"""Name of the parameter that picks the recipe, where there are several."""
JUDGED_ALIKE = ("kind", "split", "ways", "shots", "queries", "tasks")


class Space:
    """What a study searches.

    Args:
        config: the study's settings.
        branches: its recipes by label.
    """

    def __init__(self, config: StudyConfig, branches: Mapping[str, Branch]) -> None:
        self.config, self.branches = config, branches
        self._domains = {d.name: d.domain for b in branches.values() for d in b.dimensions}

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw settings in a trial and return its parameters."""
        labels = list(self.branches)
        label = trial.suggest_categorical(RECIPE, labels) if len(labels) > 1 else labels[0]
        for dimension in self.branches[label].dimensions:
            suggest_one(trial, dimension.name, dimension.domain)
        return dict(trial.params)

    def domain(self, name: str) -> Domain:
        """Return the range of a parameter; of any but the recipe."""
        return self._domains[name]

    def branch_of(self, params: Mapping[str, Any]) -> Branch:
        """Return the recipe that parameters belong to."""
        if len(self.branches) > 1:
            return self.branches[params[RECIPE]]
        return next(iter(self.branches.values()))

    def trial_recipe(self, params: Mapping[str, Any]) -> PipelineConfig:
        """Return what a trial runs: the judged stage and those it comes from.

        Raises:
            ConfigError: the combination is impossible.
        """
        branch = self.branch_of(params)
        return branch.recipe(branch.values(params))

    def full_recipe(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole recipe with these parameters, for `fewshot run`."""
        branch = self.branch_of(params)
        return branch.full(branch.values(params))

    def points(self) -> list[dict[str, Any]]:
        """Return the parameters to try first; what one leaves out is sampled."""
        found: list[dict[str, Any]] = []
        for label, branch in self.branches.items():
            picked = {RECIPE: label} if len(self.branches) > 1 else {}
            for number, point in enumerate(self.config.recipes[label].points):
                try:
                    found.append({**picked, **point_params(branch, point)})
                except ConfigError as error:
                    where = f"{branch.searched.where}points.{number}"
                    raise ConfigError(f"{where}: {error}") from None
        return found

    def check_plans(self) -> list[str]:
        """Find what only the data can show: call it before any trial runs.

        Returns:
            Digests of the outside data that all recipes read, sorted.

        Raises:
            FewShotError: a recipe cannot be planned, or recipes read different data.
        """
        found = {label: _outside(branch) for label, branch in self.branches.items()}
        (first, data), *others = found.items()
        for label, own in others:
            if own != data:
                raise ConfigError(
                    f"recipes: {first!r} and {label!r} read different data (the digests of what "
                    f"their shards or features are made from are {_short(data)} and "
                    f"{_short(own)}), so their accuracies cannot be compared; give them the same"
                )
        return data


def build_space(config: StudyConfig) -> Space:
    """Return what a study searches, after all checks that need no data.

    Raises:
        ConfigError: one mistake, with its place and remedy.
    """
    space = Space(config, {label: build_branch(config, label) for label in config.recipes})
    for branch in space.branches.values():
        check_buildable(branch)
    _check_comparable(list(space.branches.values()))
    space.points()
    return space


def describe(space: Space) -> str:
    """Return what is searched, as a table for people."""
    lines: list[str] = []
    for branch in space.branches.values():
        stages = " -> ".join(branch.tree["stages"])
        lines.append(
            f"{branch.label}: {branch.origin}, stages {stages}, judged: {branch.objective}"
        )
        width = max(len(dimension.name) for dimension in branch.dimensions)
        lines += [f"  {d.name:<{width}}  {_words(d.domain)}" for d in branch.dimensions]
    goals = ", ".join(f"{goal.direction} {goal.metric}" for goal in space.config.goals)
    budget = space.config.budget
    limits = [f"{budget.trials} trials"]
    limits += [] if budget.epochs is None else [f"{budget.epochs:g} epochs"]
    limits += [] if budget.device_hours is None else [f"{budget.device_hours:g} device hours"]
    return "\n".join([*lines, f"goal: {goals}; budget: {', '.join(limits)}"])


def _words(domain: Domain) -> str:
    if isinstance(domain, Choice):
        return "one of " + ", ".join(map(str, domain.options))
    words = f"{domain.low:g} to {domain.high:g}" + (", logarithmic" if domain.log else "")
    step = getattr(domain, "step", 1)
    return words + (f", in steps of {step}" if step != 1 else "")


def _outside(branch: Branch) -> list[str]:
    """Return the digests of what the stages of a recipe that need no other read, sorted."""
    try:
        planned = plan(branch.recipe())
    except FewShotError as error:
        raise type(error)(f"{branch.origin}: {error}") from None
    return sorted(stage.data for stage in planned.values() if not stage.inputs)


def _short(digests: list[str]) -> str:
    return ", ".join(each[:12] for each in digests)


def judged_by(stage: TrainConfig) -> dict[str, Any]:
    """Return the settings that say by which images a stage is judged."""
    judged = {f"validation.{name}": getattr(stage.validation, name) for name in JUDGED_ALIKE}
    if stage.validation.kind == "classes" and stage.data.select is not None:
        judged["data.split"] = stage.data.split
        chosen = stage.data.select.model_dump(exclude={"long_tail"})
        judged |= {f"data.select.{name}": value for name, value in chosen.items()}
    return judged


def _sources(branch: Branch) -> dict[str, Any]:
    """Return the settings of what the written shards of a recipe come from, their place aside."""
    sources = [
        s.source for s in branch.recipe().stages.values() if isinstance(s, WriteShardsConfig)
    ]
    return {
        f"source.{number}.{name}": value
        for number, source in enumerate(sources)
        for name, value in source.model_dump(mode="json", exclude={"root"}).items()
    }


def _check_comparable(branches: list[Branch]) -> None:
    """Refuse recipes whose accuracies are not of the same tasks."""
    first, *others = branches
    for other in others:
        one, two = first.judged(), other.judged()
        here, there = (judged_by(each.judged()) | _sources(each) for each in (first, other))
        for name in dict.fromkeys([*here, *there]):
            if here.get(name) != there.get(name):
                raise ConfigError(
                    f"{name}: {here.get(name)!r} in recipe {first.label!r} but {there.get(name)!r} "
                    f"in {other.label!r}, so their accuracies cannot be compared; make them alike, "
                    "e.g. in the study's validation section"
                )
        if one.seed != two.seed:
            raise ConfigError(
                f"seed: {one.seed} in stage {first.objective!r} of {first.label!r} but {two.seed} "
                f"in {other.objective!r} of {other.label!r}, so they are judged by other tasks; "
                "leave the stages' seeds to the study"
            )
