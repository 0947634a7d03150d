"""Settings of a study: which recipes, what is searched, what is judged, how long.

A study file is YAML. It names one recipe (`recipe`, `set`, `stage`, `search`, `points` at the top)
or several (`recipes: {label: {...}}`), of which each trial takes one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data_shards.location import Location
from fsl.config import Section, build, json_copy, load_recipe, parse_overrides
from pipelines.runner import Label
from tuning.branch_config import BranchConfig, Recipe, Search
from tuning.pruners import AnyPrunerConfig, NoPrunerConfig
from tuning.ranges import RangeConfig
from tuning.run_config import BudgetConfig, FinalistsConfig, LoggersConfig, TrialsConfig
from tuning.samplers import AnySamplerConfig, TpeConfig

__all__ = [
    "BranchConfig",
    "BudgetConfig",
    "FinalistsConfig",
    "GoalConfig",
    "LoggersConfig",
    "PopulationConfig",
    "RangeConfig",
    "StudyConfig",
    "TrialsConfig",
    "load_study",
]
SCORE = "val_accuracy"
Metric: TypeAlias = Literal["val_accuracy", "images_per_second", "cpu_minutes", "step_seconds"]
METRICS = {
    SCORE: "maximize",
    "images_per_second": "maximize",
    "cpu_minutes": "minimize",
    "step_seconds": "minimize",
}
"""What a train stage reports that can be a goal, and which way is better."""
MOST_GOALS = 3


class GoalConfig(Section):
    """A number that is made as good as possible."""

    metric: Metric = "val_accuracy"
    """What the judged stage reports: accuracy on the validation tasks, throughput in training, CPU
    minutes of training, median seconds of a step."""
    direction: Literal["maximize", "minimize"]
    """Which way is better; follows from the metric."""

    @model_validator(mode="before")
    @classmethod
    def _direction_of_metric(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("direction") is None:
            metric = value.get("metric", SCORE)
            known = METRICS.get(metric, "maximize") if isinstance(metric, str) else "maximize"
            return {**value, "direction": known}
        return value

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.direction != METRICS[self.metric]:
            raise ValueError(
                f"direction: {self.metric} is to {METRICS[self.metric]}; leave direction out"
            )
        return self


class PopulationConfig(Section):
    """Population-based training: trials copy the weights and settings of better ones."""

    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the trials that is replaced by copies of as many of the best."""
    interval_epochs: Annotated[int, Field(ge=1)] = 1
    """Epochs between two replacements."""
    resample: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Probability that a copied setting is drawn anew; else it is multiplied by 0.8 or 1.2, or
    becomes a neighbouring choice."""


class StudyConfig(Section):
    """A study file."""

    name: Annotated[str, Field(min_length=1)] = "study"
    """Name of the study; the command line sets the file's name."""
    study_dir: str | None = None
    """Where everything goes, a directory or a URI; default studies/<name>."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the search, and of all trials. In a population it decides the settings that members
    begin with; who copies whom, and what is changed then, differs from run to run."""
    recipe: Recipe | None = None
    """The recipe, when there is one; several: `recipes`."""
    set: dict[str, Any] | None = None
    """See `recipes`."""
    stage: str | None = None
    """See `recipes`."""
    search: Search | None = None
    """See `recipes`."""
    points: list[dict[str, Any]] | None = None
    """See `recipes`."""
    recipes: dict[Label, BranchConfig] = Field(default_factory=dict)
    """Several recipes by label; which one is searched like any setting."""
    validation: dict[str, Any] = Field(default_factory=dict)
    """Settings of the judged stages' `validation` section, the same for all recipes."""
    goals: Annotated[list[GoalConfig], Field(min_length=1, max_length=MOST_GOALS)] = Field(
        default_factory=lambda: [GoalConfig(direction="maximize")]
    )
    """What is optimised; with several goals the result is a Pareto front."""
    budget: BudgetConfig = BudgetConfig()
    """When the search ends."""
    sampler: AnySamplerConfig = TpeConfig()
    """Who proposes settings."""
    pruner: AnyPrunerConfig = NoPrunerConfig()
    """Who stops trials early."""
    population: PopulationConfig | None = None
    """Population-based training, instead of sampler and pruner."""
    trials: TrialsConfig = TrialsConfig()
    """How trials run."""
    warm_start: list[str] = Field(default_factory=list)
    """Directories (or URIs) of earlier studies whose trials the sampler is to know."""
    finalists: FinalistsConfig = FinalistsConfig()
    """Comparison of the best on fresh tasks."""
    loggers: LoggersConfig = LoggersConfig()
    """Services that follow the trials."""

    @field_validator("study_dir")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("name a directory or a URI, or leave it out for studies/<name>")
        return value

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        """Turn the short form into `recipes`."""
        short = {name: getattr(self, name) for name in BranchConfig.model_fields}
        given = {name: value for name, value in short.items() if value is not None}
        if self.recipes:
            if given:
                raise ValueError(f"{next(iter(given))}: belongs into each entry of recipes here")
            return self
        if self.recipe is None:
            raise ValueError("recipe: missing; name the recipe to search, or several in recipes")
        label = _label_of(self.recipe)
        object.__setattr__(self, "recipes", {label: BranchConfig(**given)})
        for name in short:  # one form only from here on
            object.__setattr__(self, name, None)
        return self

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if len({goal.metric for goal in self.goals}) < len(self.goals):
            raise ValueError("goals: name each metric once")
        pruned = self.pruner.name != "none"
        if pruned and [goal.metric for goal in self.goals] != [SCORE]:
            raise ValueError(
                f"pruner: {self.pruner.name} compares {SCORE} during training, so it must be the "
                "only goal; set pruner: {name: none}"
            )
        if len(self.recipes) > 1 and not self.sampler.conditional:
            raise ValueError(
                f"sampler: {self.sampler.name} cannot search several recipes, whose settings "
                "differ; use tpe or random"
            )
        for branch in self.recipes.values():
            branch.check_set(self.trials.launcher)
        if self.warm_start and not self.sampler.learns:
            raise ValueError(
                f"warm_start: sampler {self.sampler.name} learns nothing from the trials of other "
                "studies; use tpe or gp"
            )
        if self.finalists.count and self.finalists.seed == self.seed:
            raise ValueError(
                f"finalists.seed: {self.seed} is the seed of the search's own tasks too; set "
                f"finalists.seed: {self.seed + 1}"
            )
        return self

    @model_validator(mode="after")
    def _population_alone(self) -> Self:
        if self.population is None:
            return self
        for name in ("sampler", "pruner"):
            if name in self.model_fields_set:
                raise ValueError(f"{name}: population takes its place; remove one of the two")
        if [goal.metric for goal in self.goals] != [SCORE]:
            raise ValueError(f"population: compares {SCORE}, so it must be the only goal")
        if len(self.recipes) > 1:
            raise ValueError("population: its trials copy each other; name one recipe")
        unused = {
            "points": any(branch.points for branch in self.recipes.values()),
            "budget.epochs": self.budget.epochs is not None,
            "budget.device_hours": self.budget.device_hours is not None,
            "trials.checkpoint_gb": self.trials.checkpoint_gb is not None,
            "warm_start": bool(self.warm_start),
            "finalists": self.finalists != FinalistsConfig(),
            "loggers": self.loggers != LoggersConfig(),
        }
        for name, given in unused.items():
            if given:
                raise ValueError(f"{name}: does nothing for a population; remove it")
        return self

    @property
    def root(self) -> Location:
        """The study directory."""
        return Location.parse(self.study_dir or f"studies/{self.name}")


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Return the settings in a study file, after `key=value` overrides.

    An override `stages.LABEL.section.key=value` is meant for the recipe, or for all of them; keys
    of `set` and `search` keep their dots: `search.optim.lr.low=1.0e-4`.

    Raises:
        ConfigError: unreadable file, unknown key, or a value out of its limits.
    """
    tree = load_recipe(path, _Raw).model_extra or {}
    values = parse_overrides(overrides)
    tree = {"name": path.stem, **json_copy(tree)}
    branches = tree.get("recipes", {"": tree})
    branches = branches if isinstance(branches, dict) else {}
    for key in list(values):
        if key.startswith("stages."):
            for branch in branches.values():
                if isinstance(branch, dict):  # else it is refused below
                    _section(branch, "set")[key] = values[key]
            del values[key]
        elif _set_within(tree, key, values[key]):
            del values[key]
    config = build(StudyConfig, tree, values, origin=str(path))
    recipes = {label: _located(branch, path.parent) for label, branch in config.recipes.items()}
    return config.model_copy(update={"recipes": recipes})


class _Raw(BaseModel):
    """Any mapping."""

    model_config = ConfigDict(extra="allow")


def _set_within(tree: dict[str, Any], key: str, value: Any) -> bool:
    """Set a key of `set` or `search`, in which dots do not separate; return whether it was one."""
    parts = key.split(".")
    at = 2 if parts[0] == "recipes" else 0
    if len(parts) <= at + 1 or parts[at] not in ("set", "search"):
        return False
    branch = tree
    for part in parts[:at]:
        branch = _section(branch, part)
    section = _section(branch, parts[at])
    name, inside = ".".join(parts[at + 1 :]), None
    if parts[at] == "search" and parts[-1] in RangeConfig.model_fields:
        name, _, inside = name.rpartition(".")
    if inside is None:
        section[name] = value
    else:
        known = section.get(name)
        section[name] = {**(known if isinstance(known, dict) else {}), inside: value}
    return True


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(tree.get(name), dict):
        tree[name] = {}
    section: dict[str, Any] = tree[name]
    return section


def _located(branch: BranchConfig, folder: Path) -> BranchConfig:
    """Return the recipe's settings with its path as seen from here."""
    if isinstance(branch.recipe, dict):
        return branch
    return branch.model_copy(update={"recipe": os.path.normpath(folder / branch.recipe)})


def _label_of(recipe: str | dict[str, Any]) -> str:
    """Return a label for the only recipe."""
    stem = Path(recipe).stem if isinstance(recipe, str) else "recipe"
    return re.sub("[^a-z0-9_]", "_", stem.lower()).lstrip("_")[:41] or "recipe"
