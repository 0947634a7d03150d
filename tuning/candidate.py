"""One recipe of a study, ready to be searched: what a trial of it runs, and every check of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fsl.config import build
from fsl.errors import ConfigError
from pipelines.runner import PipelineConfig
from pipelines.stage import STAGES
from pipelines.train_checks import check_unseen
from pipelines.train_config import TrainConfig
from tuning.config import SCORE, StudyConfig
from tuning.ranges import decoded, draw, ends
from tuning.recipe_tree import ancestors, source_tree, trial_tree, with_tags, with_values
from tuning.search_keys import Dimension, Searched

SEALED = "novel"
"""The split that no choice may depend on."""
DRAWS = 20
"""Other settings with which an end of a range is tried before it is called impossible."""


@dataclass(frozen=True)
class Branch:
    """One recipe of a study.

    Attributes:
        label: its name in the study.
        origin: where it was read.
        source: the recipe as written, with everything that the study fixes.
        tree: what a trial runs, with all defaults.
        objective: label of the judged train stage.
        dimensions: what is searched.
        searched: how keys of the study file are understood.
    """

    label: str
    origin: str
    source: Mapping[str, Any]
    tree: Mapping[str, Any]
    objective: str
    dimensions: tuple[Dimension, ...]
    searched: Searched

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return dotted key -> value for the parameters of a trial."""
        return {d.key: decoded(d.domain, params[d.name]) for d in self.dimensions}

    def recipe(self, values: Mapping[str, Any] | None = None) -> PipelineConfig:
        """Return what a trial runs with these values, or with the recipe's own.

        Raises:
            ConfigError: they are impossible together.
        """
        return build(PipelineConfig, self.tree, values, origin=self.origin)

    def full(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole recipe with these values, as short as it was written."""
        filled = {"stages": self.tree["stages"]}
        return with_values(self.source, with_tags(self.source, filled, values), self.origin)

    def train_stages(self) -> list[TrainConfig]:
        """Return the settings of the train stages that a trial runs."""
        stages = self.recipe().stages.values()
        return [stage for stage in stages if isinstance(stage, TrainConfig)]

    def judged(self, recipe: PipelineConfig | None = None) -> TrainConfig:
        """Return the settings of the judged stage."""
        stage = (recipe or self.recipe()).stages[self.objective]
        assert isinstance(stage, TrainConfig)
        return stage


def build_branch(config: StudyConfig, label: str) -> Branch:
    """Return a recipe of the study, after all checks that need no data.

    Raises:
        ConfigError: one mistake, with its place and remedy.
    """
    branch = config.recipes[label]
    several = len(config.recipes) > 1
    where = f"recipes.{label}." if several else ""
    origin = branch.recipe if isinstance(branch.recipe, str) else f"{where}recipe"
    source, objective = source_tree(config, branch, origin)
    full = build(PipelineConfig, source, origin=origin)
    try:
        labels = ancestors(full, objective)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    searched = Searched(full, objective, labels, branch.set, where)
    dimensions = searched.dimensions(branch.search, f"{label}." if several else "")
    tree = trial_tree(config, full, objective)
    made = Branch(label, origin, source, tree, objective, dimensions, searched)
    _check_goals(config, made)
    _check_same_images(made)
    _check_splits(made, made.recipe())
    _check_limits(made)
    return made


def _check_same_images(branch: Branch) -> None:
    """Refuse to search by which images trials are judged."""
    stages = branch.recipe().stages
    of_data = [f"stages.{k}." for k, s in stages.items() if STAGES.get(s.kind).gives == "shards"]
    of_data += [f"stages.{k}." for k, s in stages.items() if s.kind == "import_features"]
    aside: list[str] = []
    if branch.judged().validation.kind == "classes":
        own = f"stages.{branch.objective}.data."
        aside = [f"{own}split", f"{own}select.where", f"{own}select.set_aside"]
    for dimension in branch.dimensions:
        if dimension.key.startswith((*of_data, *aside)):
            raise ConfigError(
                f"{branch.searched.where}search.{branch.searched.short(dimension.key)}: decides by "
                "which images trials are compared; all have to have the same"
            )


def _check_goals(config: StudyConfig, branch: Branch) -> None:
    """Refuse a goal that no trial would ever report."""
    judged = branch.judged()
    wanted = [goal.metric for goal in config.goals]
    if SCORE in wanted and judged.validation.every_epochs == 0:
        raise ConfigError(
            f"{branch.origin}: stages.{branch.objective}.validation.every_epochs: 0, so {SCORE}, "
            "a goal of the study, is never measured; set it to 1 or more, e.g. in the study's "
            "validation section"
        )
    lengths = {dimension.key.rpartition(".")[2] for dimension in branch.dimensions}
    once = judged.validation.every_epochs >= judged.optim.epochs and "epochs" not in lengths
    if config.pruner.name != "none" and once:
        raise ConfigError(
            f"pruner: {config.pruner.name} could stop no trial: {branch.objective!r} is judged "
            f"every {judged.validation.every_epochs} epochs, and has {judged.optim.epochs}; set "
            "every_epochs lower in the study's validation section, or pruner: {name: none}"
        )
    if config.finalists.count and judged.validation.kind == "classes":
        raise ConfigError(
            f"finalists.count: {config.finalists.count} would meet in few-shot tasks, but stage "
            f"{branch.objective!r} is judged by its training classes; set finalists.count: 0"
        )
    if config.finalists.count and judged.seed == config.finalists.seed:
        raise ConfigError(
            f"finalists.seed: {judged.seed} is the seed of stage {branch.objective!r} too, whose "
            "tasks the search has used; choose another"
        )


def _check_splits(branch: Branch, recipe: PipelineConfig) -> None:
    """Refuse a validation on classes that are trained on, or that are kept for the end."""
    judged = branch.judged(recipe)
    if judged.validation.kind == "classes":  # asks images set aside of the training split
        if SEALED in judged.splits:
            raise ConfigError(
                f"{branch.origin}: stages.{branch.objective}.data.split: {SEALED!r} holds the "
                "classes for the final evaluation, and nothing may be chosen by them; use base"
            )
        return
    where = f"{branch.origin}: stages.{branch.objective}."
    if judged.validation.split == SEALED:
        raise ConfigError(
            f"{where}validation.split: {SEALED!r} holds the classes for the final evaluation, and "
            "nothing may be chosen by them; use val"
        )
    images = _image_sources(recipe, branch.objective)
    trained = {
        label: stage.splits
        for label, stage in recipe.stages.items()
        if isinstance(stage, TrainConfig) and _image_sources(recipe, label) & images
    }
    check_unseen(judged.validation, trained, where)


def _image_sources(recipe: PipelineConfig, label: str) -> set[str]:
    """Return the labels of the shards that a stage takes, or that its feature table comes from."""
    found: set[str] = set()
    for need in recipe.stages[label].needs:
        gives = STAGES.get(recipe.stages[need].kind).gives
        if gives == "shards":
            found.add(need)
        elif gives == "features":
            found |= _image_sources(recipe, need) or {need}
    return found


def _check_limits(branch: Branch) -> None:
    """Refuse a range that reaches beyond what its setting may be."""
    for dimension in branch.dimensions:
        for end in ends(dimension.domain):
            try:
                recipe = branch.recipe({dimension.key: end})
            except ConfigError as error:
                recipe = _possible(branch, dimension, end, error)
            _check_splits(branch, recipe)


def _possible(branch: Branch, dimension: Dimension, end: Any, error: ConfigError) -> PipelineConfig:
    """Return a recipe with this value and others that go with it; raise when there seem none."""
    where = f"{branch.searched.where}search.{branch.searched.short(dimension.key)}"
    refused = f"{where}: the range reaches {end!r}, which is impossible: {error}"
    if any(f"{branch.origin}: {dimension.key}{sign}" in str(error) for sign in ":."):
        raise ConfigError(refused)  # the setting's own limit, whatever the others are
    generator = random.Random(0)
    for _ in range(DRAWS):
        values = {d.key: draw(d.domain, generator) for d in branch.dimensions}
        try:
            return branch.recipe({**values, dimension.key: end})
        except ConfigError:
            continue
    raise ConfigError(refused)
