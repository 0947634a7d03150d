"""One recipe of a study: what is kept of it for a trial, and for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fsl.config import build
from fsl.errors import ConfigError
from pipelines.runner import PipelineConfig
from tests.toy_study import RECIPE, pretrained_elsewhere
from tuning.candidate import Branch, build_branch
from tuning.config import StudyConfig
from tuning.recipe_tree import ancestors, with_tags

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def branch_of(recipe: Any = RECIPE, **settings: Any) -> Branch:
    search = {"optim.lr": {"low": 1e-4, "high": 1e-2}}
    config = build(StudyConfig, {"recipe": recipe, "search": search, **settings})
    (label,) = config.recipes
    return build_branch(config, label)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.stem))
def test_every_recipe_of_the_project_can_be_tuned(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    stages = yaml.safe_load(path.read_text())["stages"]
    trained = [label for label, stage in stages.items() if stage["kind"] == "train"]
    checked = [label for label in trained if stages[label]["validation"]["every_epochs"]]
    judged = (checked or trained)[-1]
    settings: dict[str, Any] = {"stage": judged, "study_dir": "studies/any"}
    if not checked:
        settings["goals"] = [{"metric": "step_seconds", "direction": "minimize"}]
    if stages[judged]["validation"].get("kind") == "classes" or not checked:
        settings["finalists"] = {"count": 0}
    branch = branch_of(str(path), **settings)
    recipe = branch.recipe({f"stages.{judged}.optim.lr": 1e-3})
    assert branch.judged(recipe).optim.lr == 1e-3
    later = {"evaluate", "report", "classify", "zero_shot"}
    assert not later & {stage.kind for stage in recipe.stages.values()}
    again = build(PipelineConfig, recipe.model_dump(mode="json"))
    assert again == recipe  # a trial is sent to its process like this
    assert build(PipelineConfig, branch.full({})).stages.keys() == stages.keys()


def test_an_earlier_training_on_other_images_is_no_matter() -> None:
    branch_of({"stages": pretrained_elsewhere()})
    stages = pretrained_elsewhere()
    stages["first"]["needs"] = ["shards"]
    with pytest.raises(ConfigError, match="'val' is trained on by stage 'first'"):
        branch_of({"stages": stages})


def test_finalists_in_few_shot_tasks_need_a_stage_judged_by_them() -> None:
    with pytest.raises(ConfigError, match=r"set finalists\.count: 0"):
        branch_of(str(ROOT / "recipes/cifar10_drloc.yaml"), stage="drloc", study_dir="any")


def test_a_trial_runs_what_the_judged_stage_comes_from_and_nothing_else() -> None:
    assert list(branch_of().tree["stages"]) == ["shards", "first", "second"]
    assert list(branch_of(stage="first").tree["stages"]) == ["shards", "first"]
    assert [stage.method.name for stage in branch_of().train_stages()] == [
        "supervised",
        "protonet",
    ]


def test_the_stages_that_a_stage_comes_from_are_found_in_any_order() -> None:
    recipe = build(PipelineConfig, RECIPE)
    assert ancestors(recipe, "second") == {"shards", "first", "second"}
    assert ancestors(recipe, "shards") == {"shards"}


def test_what_the_study_fixes_is_in_the_recipe_for_people_too() -> None:
    fixed = {"stages.evaluate.tasks": 70, "stages.second.optim.epochs": 2}
    branch = branch_of(set=fixed, seed=5, validation={"tasks": 33})
    whole = branch.full({"stages.second.optim.lr": 0.5})
    second = whole["stages"]["second"]
    assert (second["optim"]["epochs"], second["optim"]["lr"]) == (2, 0.5)
    assert (second["validation"]["tasks"], whole["seed"]) == (33, 5)
    assert whole["stages"]["evaluate"]["tasks"] == 70
    assert second["cluster"] == {"launcher": "local"}
    assert RECIPE["stages"]["second"]["optim"]["epochs"] == 4  # not changed in place


def test_a_section_that_is_made_on_the_way_says_which_kind_it_is() -> None:
    tree: dict[str, Any] = {"a": {"b": {}}}
    filled = {"a": {"b": {"c": {"name": "x", "d": 1}, "e": {"f": 2}}}}
    assert with_tags(tree, filled, {"a.b.c.d": 3, "a.b.e.f": 4}) == {
        "a.b.c.name": "x",
        "a.b.c.d": 3,
        "a.b.e.f": 4,
    }
    assert with_tags(filled, filled, {"a.b.c.d": 3}) == {"a.b.c.d": 3}


def test_values_need_every_setting_that_is_searched() -> None:
    branch = branch_of()
    assert branch.values({"optim.lr": 0.1, "recipe": "x"}) == {"stages.second.optim.lr": 0.1}
    with pytest.raises(KeyError):
        branch.values({})


def test_an_impossible_combination_is_a_mistake_of_the_recipe() -> None:
    with pytest.raises(ConfigError, match=r"recipe: stages\.second\.optim\.lr"):
        branch_of().recipe({"stages.second.optim.lr": -1})
