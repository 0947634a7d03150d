"""Study files: both forms, overrides, and one clear error for each mistake."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from fsl.config import build
from fsl.errors import ConfigError
from tuning.config import StudyConfig, load_study

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "recipes" / "studies").glob("*.yaml"))
SHORT = {"recipe": "../toy.yaml", "search": {"optim.lr": "own"}}


def study(**settings: Any) -> StudyConfig:
    return build(StudyConfig, {**SHORT, **settings})


def written(folder: Path, **settings: Any) -> Path:
    path = folder / "studies" / "mine.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**SHORT, **settings}))
    return path


def test_the_short_form_is_one_recipe_called_like_its_file() -> None:
    config = study(set={"stages.a.optim.epochs": 2}, stage="a", points=[{"optim.lr": 0.1}])
    (label,) = config.recipes
    branch = config.recipes[label]
    assert label == "toy"
    assert branch.search == {"optim.lr": "own"}
    assert (branch.stage, branch.points) == ("a", [{"optim.lr": 0.1}])
    assert config.recipe is None
    assert build(StudyConfig, config.model_dump(mode="json")) == config


def test_settings_survive_a_round_trip() -> None:
    search = {
        "a.b": {"low": 1, "high": 8, "log": True},
        "c": {"choices": [[1, 2], "x"]},
        "d": "own",
    }
    config = study(search=search)
    dump = config.model_dump(mode="json")
    assert dump["recipes"]["toy"]["search"] == search
    assert build(StudyConfig, dump) == config


def test_a_file_names_the_study_and_recipes_are_found_from_it(tmp_path: Path) -> None:
    config = load_study(written(tmp_path))
    assert config.name == "mine"
    assert config.root.path.endswith("studies/mine")
    assert config.recipes["toy"].recipe == str(tmp_path / "toy.yaml")


def test_a_recipe_may_be_written_into_the_study() -> None:
    config = study(recipe={"stages": {"a": {"kind": "train"}}})
    assert config.recipes["recipe"].recipe == {"stages": {"a": {"kind": "train"}}}


def test_the_direction_follows_from_the_metric() -> None:
    goals = study(goals=[{"metric": "val_accuracy"}, {"metric": "step_seconds"}]).goals
    assert [goal.direction for goal in goals] == ["maximize", "minimize"]
    assert study().goals[0].metric == "val_accuracy"


def test_overrides_reach_the_study_the_recipe_and_the_ranges(tmp_path: Path) -> None:
    path = written(tmp_path, search={"optim.lr": {"low": 0.1, "high": 0.2}, "method": "own"})
    config = load_study(
        path,
        [
            "budget.trials=7",
            "stages.train.optim.epochs=2",
            "search.optim.lr.high=0.5",
            "search.data.batch_size.choices=[8, 16]",
            "search.method.temperature=own",
            "set.stages.train.log_every=3",
        ],
    )
    branch = config.recipes["toy"]
    assert config.budget.trials == 7
    assert branch.set == {"stages.train.optim.epochs": 2, "stages.train.log_every": 3}
    rate, batch = branch.search["optim.lr"], branch.search["data.batch_size"]
    assert not isinstance(rate, str)
    assert not isinstance(batch, str)
    assert (rate.low, rate.high) == (0.1, 0.5)
    assert batch.choices == [8, 16]
    assert branch.search["method.temperature"] == "own"


def test_an_override_of_a_stage_reaches_every_recipe(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    two = {"recipes": {"a": {"recipe": "a.yaml"}, "b": {"recipe": "b.yaml"}}}
    path.write_text(yaml.safe_dump(two))
    config = load_study(
        path, ["stages.shards.source.root=x", "recipes.b.set.stages.c.seed=1", "recipes.a.stage=d"]
    )
    assert config.recipes["a"].set == {"stages.shards.source.root": "x"}
    assert config.recipes["b"].set == {"stages.shards.source.root": "x", "stages.c.seed": 1}
    assert config.recipes["a"].stage == "d"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_the_studies_that_come_with_the_project_are_valid(path: Path) -> None:
    assert load_study(path).name == path.stem


TWO = {"a": {"recipe": "a.yaml"}, "b": {"recipe": "b.yaml"}}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"serch": {}}, "serch: unknown key; did you mean 'search'?"),
    ({"recipe": None}, "recipe: missing; name the recipe to search, or several in recipes"),
    ({"recipes": TWO}, "recipe: belongs into each entry of recipes here"),
    ({"search": {}}, "search: nothing is searched"),
    ({"search": {"optim.lr": {"low": 1}}}, "a range is {low: ..., high: ...} or {choices: [...]}"),
    ({"search": {"x": {"choices": [1, 1]}}}, "name each choice once"),
    ({"search": {"x": {"choices": [1], "log": True}}}, "choices stand alone"),
    ({"search": {"x": "mine"}}, "search.x: a range is own, {low: ..., high: ...} or {choices"),
    ({"search": {"x": {"choices": []}}}, "search.x.choices: List should have at least 1 item"),
    ({"recipe": 3}, "recipe: name the recipe's file, or write its sections here (got 3)"),
    ({"set": {"seed": 3}}, "'seed': write a setting of a stage as stages.LABEL.section.key"),
    (
        {"set": {"stages.distill.cluster.workers": 4}},
        "set: stages.distill.cluster.workers has no effect with trials.launcher: local, where a "
        "trial is one process",
    ),
    ({"set": {"stages.distill.checkpoint.keep": 4}}, "has no effect: a trial keeps its best and"),
    ({"warm_start": ["old"], "sampler": {"name": "nsga2"}}, "nsga2 learns nothing from the trials"),
    ({"goals": [{"metric": ["val_accuracy"]}]}, "goals.0.metric: Input should be 'val_accuracy'"),
    ({"search": {"x": {"low": 1, "high": 10**400}}}, "low and high: numbers up to 1e+15"),
    ({"search": {"x": {"choices": [date(2026, 1, 1)]}}}, "write dates in quotes"),
    ({"goals": [{"metric": "accuracy"}]}, "goals.0.metric: Input should be 'val_accuracy'"),
    ({"goals": [{}, {}]}, "goals: name each metric once"),
    ({"goals": [{"metric": "step_seconds", "direction": "maximize"}]}, "is to minimize"),
    (
        {"goals": [{}, {"metric": "step_seconds"}], "pruner": {"name": "asha"}},
        "pruner: asha compares val_accuracy during training, so it must be the only goal",
    ),
    ({"pruner": {"name": "ahsa"}}, "pruner: unknown pruner 'ahsa'; did you mean 'asha'?"),
    ({"sampler": {"name": "tpe", "startup": 3}}, "did you mean 'startup_trials'?"),
    ({"budget": {"trials": 0}}, "budget.trials: Input should be greater than or equal to 1"),
    ({"population": {}, "pruner": {"name": "none"}}, "pruner: population takes its place"),
    ({"recipe": None, "search": None, "recipes": TWO, "population": {}}, "name one recipe"),
    ({"recipe": None, "search": None, "recipes": TWO, "sampler": {"name": "gp"}}, "use tpe or"),
    ({"trials": {"launcher": "ray", "cpus": 2}}, "cpus: with launcher: ray the recipe's cluster"),
    ({"seed": 1}, "finalists.seed: 1 is the seed of the search's own tasks too; set"),
    ({"study_dir": " "}, "study_dir: name a directory or a URI"),
]


@pytest.mark.parametrize(("settings", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_gets_one_clear_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
