"""What is wrong with a search becomes one line, before any trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fsl.config import build
from fsl.errors import ConfigError
from tests.toy_study import RECIPE
from tests.unit.tuning.spaces import RATE, names, space_of
from tuning.config import StudyConfig
from tuning.space import build_space

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"search": {"optim.epoch": "own"}}, "search.optim.epoch: there is no 'epoch' in optim; did"),
    ({"search": {"optin": "own"}}, "search.optin: there is no 'optin' in stages.second; did you"),
    ({"search": {"stages.frist.optim.lr": "own"}}, "there is no stage 'frist'; did you mean"),
    ({"search": {"stages.evaluate.tasks": "own"}}, "comes after 'second', which is judged"),
    ({"search": {"optim.lr.x": "own"}}, "search.optim.lr.x: there is no 'x' in optim.lr"),
    ({"search": {"optim.epochs": "own"}}, "the setting declares no range of its own; write"),
    ({"search": {"optim": RATE}}, "search.optim: a section, which has no range"),
    ({"search": {"validation": "own"}}, "search.validation: trials are compared by their"),
    ({"search": {"validation.tasks": "own"}}, "set it in the study's validation section"),
    ({"search": {"checkpoint": "own"}}, "search.checkpoint: no setting in it has a range"),
    ({"search": {"data.loader_workers": {"low": 0, "high": 2}}}, "it cannot change a result"),
    ({"search": {"cluster.workers": {"choices": [1, 2]}}}, "it cannot change a result"),
    ({"search": {"seed": {"low": 0, "high": 2}}}, "search.seed: a seed is not searched"),
    ({"search": {"backbone.width": "own"}}, "backbone is null in the recipe; give the section in"),
    ({"search": {"precision": {"low": 0, "high": 1}}}, "search.precision: not a number"),
    ({"search": {"optim.lr": {"low": 1, "high": 2, "step": 1}}}, "not a whole number; use choices"),
    ({"search": {"episodes.ways": {"low": 2.5, "high": 4}}}, "low: 2.5 is not a whole number"),
    ({"search": {"episodes.ways": {"low": 2, "high": 5, "step": 2}}}, "high: 5 is not reached"),
    ({"search": {"optim.lr": {"low": 1, "high": 0.5}}}, "low: 1.0 is above high: 0.5"),
    ({"search": {"optim.lr": {"low": 0, "high": 0.5, "log": True}}}, "must be above 0 with log"),
    (
        {"search": {"optim.lr": {"low": 0.1, "high": 20}}},
        "search.optim.lr: the range reaches 20.0, which is impossible: recipe: stages.second.optim"
        ".lr: Input should be less than or equal to 10 (got 20.0)",
    ),
    ({"search": {"method.metric": {"choices": ["cosine", "cos"]}}}, "the range reaches 'cos'"),
    ({"search": {"data.split": {"choices": ["base", "val"]}}}, "trained on by stage 'second'"),
    ({"search": {"data.batch_size": "own"}}, "learns from episodes, not from batches"),
    ({"set": {"stages.second.optim.lr": 0.1}}, "search.optim.lr: also fixed by set"),
    ({"set": {"stages.secnd.optim.lr": 0.1}}, "no stage 'secnd'; did you mean 'second'?"),
    ({"set": {"stages.second.optim.warmup": 0.1}}, "stages.second.optim.warmup: unknown key"),
    ({"stage": "evaluate"}, "stage: 'evaluate' of recipe is a evaluate stage, and only train"),
    ({"stage": "secnd"}, "has no stage 'secnd'; did you mean 'second'?"),
    ({"recipe": {"stages": {"a": {"kind": "report"}}}}, "no train stage, so there is nothing"),
    ({"recipe": "nowhere.yaml"}, "nowhere.yaml: cannot be read as a recipe: No such file"),
    ({"validation": {"every_epochs": 0}}, "val_accuracy, a goal of the study, is never measured"),
    ({"validation": {"split": "novel"}}, "nothing may be chosen by them; use val"),
    ({"validation": {"split": "base"}}, "is trained on by stage 'first'"),
    ({"validation": {"task": 3}}, "stages.second.validation.task: unknown key; did you mean"),
    ({"finalists": {"seed": 4}, "set": {"stages.second.seed": 4}}, "finalists.seed: 4 is the seed"),
    ({"points": [{"optim.rl": 1}]}, "points.0: optim.rl is not searched; did you mean 'optim.lr'"),
    ({"points": [{"optim.lr": 1}]}, "points.0: optim.lr: 1 is outside its range 0.0001 to 0.1"),
    ({"points": [{"optim.lr": "1e-3"}]}, "points.0: optim.lr: '1e-3' is not a number"),
    ({"set": {"stages.second.needs": ["shards", "frist"]}}, "'frist' is needed, but there is no"),
]


@pytest.mark.parametrize(("settings", "message"), MISTAKES, ids=lambda value: str(value)[:50])
def test_a_mistake_gets_one_clear_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space_of(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages.first.validation.ways": 4}, "validation.ways: 3 in recipe 'episodic' but 4 in"),
        ({"stages.first.validation.tasks": 9}, "in the study's validation section"),
        ({"stages.first.seed": 9}, "seed: None in stage 'second' of 'episodic' but 9 in 'first'"),
    ],
)
def test_recipes_that_are_judged_by_other_tasks_are_refused(
    change: dict[str, Any], message: str
) -> None:
    branches = {
        "episodic": {"recipe": RECIPE, "search": {"optim.lr": RATE}},
        "plain": {"recipe": RECIPE, "stage": "first", "search": {"optim.lr": RATE}, "set": change},
    }
    with pytest.raises(ConfigError) as caught:
        build_space(build(StudyConfig, {"recipes": branches}))
    assert message in str(caught.value)


def test_an_end_of_a_range_may_need_other_settings_to_go_with_it() -> None:
    sizes = {"choices": [2, 48]}
    space = space_of(
        stage="first",
        search={"data.batch_size": sizes, "data.micro_batch": {"choices": [1, 2, 4]}},
    )
    assert names(space) == ["data.batch_size", "data.micro_batch"]


CLASSES = str(Path(__file__).parents[3] / "recipes" / "cifar10_drloc.yaml")


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (
            {"recipe": CLASSES, "search": {"data.select.set_aside": {"low": 0.1, "high": 0.3}}},
            "search.data.select.set_aside: decides by which images trials are compared",
        ),
        (
            {
                "recipe": CLASSES,
                "search": {"stages.shards.source.per_class": {"low": 9, "high": 99}},
            },
            "search.stages.shards.source.per_class: decides by which images",
        ),
        (
            {
                "recipe": CLASSES,
                "search": {"optim.lr": "own"},
                "set": {"stages.drloc.data.split": "novel"},
            },
            "'novel' holds the classes for the final evaluation",
        ),
        (
            {
                "recipe": CLASSES,
                "search": {"optim.lr": "own"},
                "validation": {"every_epochs": 30},
                "pruner": {"name": "asha"},
            },
            "pruner: asha could stop no trial: 'drloc' is judged every 30 epochs, and has 30",
        ),
        (
            {
                "recipes": {
                    "one": {"recipe": CLASSES, "search": {"optim.lr": "own"}},
                    "two": {
                        "recipe": CLASSES,
                        "search": {"optim.lr": "own"},
                        "set": {"stages.drloc.data.select.set_aside_seed": 1},
                    },
                }
            },
            "data.select.set_aside_seed: 0 in recipe 'one' but 1 in 'two', so their accuracies",
        ),
        (
            {
                "recipes": {
                    "one": {"recipe": CLASSES, "search": {"optim.lr": "own"}},
                    "two": {
                        "recipe": CLASSES,
                        "search": {"optim.lr": "own"},
                        "set": {"stages.shards.source.per_class": 9},
                    },
                }
            },
            "source.0.per_class: 1000 in recipe 'one' but 9 in 'two'",
        ),
        (
            {
                "recipes": {
                    "one": {"recipe": RECIPE, "stage": "first", "search": {"optim.lr": RATE}},
                    "two": {"recipe": CLASSES, "search": {"optim.lr": "own"}},
                }
            },
            "so their accuracies cannot be compared",
        ),
    ],
    ids=["searched", "data", "novel", "judged once", "two recipes", "two sources", "other recipe"],
)
def test_trials_are_judged_by_the_same_images(
    study: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tree = {"study_dir": str(tmp_path), "name": "any", "finalists": {"count": 0}, **study}
    with pytest.raises(ConfigError) as caught:
        build_space(build(StudyConfig, tree))
    assert message in str(caught.value)
