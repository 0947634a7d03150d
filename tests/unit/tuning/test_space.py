"""What is searched: keys become ranges, parameters become recipes, mistakes become one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import Field

from fsl.config import Section, build
from fsl.errors import ConfigError
from fsl.method import METHODS, Method, MethodConfig
from fsl.search_space import Choice, IntRange, Uniform
from fsl.types import Episode
from pipelines.runner import PipelineConfig, plan
from tests.toy_study import RECIPE
from tests.unit.tuning.spaces import RATE, names, space_of, two_recipes
from tuning.config import StudyConfig, load_study
from tuning.ranges import RangeConfig, decoded, distribution, encoded, ends, fitting
from tuning.space import Space, build_space, describe

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "recipes" / "studies").glob("*.yaml"))


def draw(space: Space, **fixed: Any) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(fixed)
    return space.suggest(study.ask())


def test_a_key_is_of_the_judged_stage_unless_it_names_another() -> None:
    space = space_of(search={"optim.lr": RATE, "stages.first.optim.lr": "own"})
    (branch,) = space.branches.values()
    assert [(d.name, d.key) for d in branch.dimensions] == [
        ("optim.lr", "stages.second.optim.lr"),
        ("stages.first.optim.lr", "stages.first.optim.lr"),
    ]
    assert branch.dimensions[0].domain == Uniform(1e-4, 1e-1, log=True)
    assert branch.dimensions[1].domain == Uniform(1e-5, 1e-2, log=True)


def test_a_section_gives_all_its_ranges_but_what_is_fixed_or_named_itself() -> None:
    metric = {"choices": ["cosine"]}
    space = space_of(
        search={"method": "own", "method.metric": metric},
        set={"stages.second.method.view.flip": 0.5},
    )
    found = names(space)
    assert {"method.temperature", "method.view.affine.rotation"} & set(found)
    assert "method.view.flip" not in found
    assert found.count("method.metric") == 1
    assert space.domain("method.metric") == Choice("cosine")


def test_the_type_of_the_setting_decides_about_whole_numbers() -> None:
    space = space_of(
        search={
            "episodes.ways": {"low": 2, "high": 8, "step": 2},
            "optim.lr": {"low": 1, "high": 2},
            "backbone.width": {"low": 8, "high": 16},
        },
        set={"stages.second.backbone": {"name": "conv4"}, "stages.second.init.restore": "backbone"},
    )
    assert space.domain("episodes.ways") == IntRange(2, 8, step=2)
    assert space.domain("optim.lr") == Uniform(1.0, 2.0)
    assert space.domain("backbone.width") == IntRange(8, 16)


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (Uniform(0.1, 1.0, log=True), FloatDistribution(0.1, 1.0, log=True)),
        (IntRange(2, 8, step=2), IntDistribution(2, 8, step=2)),
        (Choice("a", None, True), CategoricalDistribution(["a", None, True])),
        (Choice((0.1, 1), {"x": 2}), CategoricalDistribution(["[0.1, 1]", '{"x": 2}'])),
    ],
)
def test_ranges_become_distributions(domain: Any, expected: Any) -> None:
    assert distribution(domain) == expected


def test_choices_that_are_no_plain_values_come_back_as_they_were() -> None:
    domain = Choice((0.1, 1.0), {"name": "x"}, "[0.1]", 1, True)
    for option, back in zip(domain.options, ends(domain), strict=True):
        value = decoded(domain, encoded(option))
        assert value == back
        assert type(value) is type(back)
        assert fitting(domain, option) == encoded(option)


def test_params_become_the_recipe_that_a_trial_runs() -> None:
    space = space_of(seed=7)
    recipe = space.trial_recipe({"optim.lr": 0.02})
    second: Any = recipe.stages["second"]
    first: Any = recipe.stages["first"]
    assert list(recipe.stages) == ["shards", "first", "second"]
    assert recipe.seed == 7
    assert recipe.root.path.endswith("studies/toy/stages")
    assert (first.optim.lr, second.optim.lr) == (0.01, 0.02)
    assert (first.checkpoint.keep, second.checkpoint.keep) == (1, 1)


def test_the_launcher_of_trials_replaces_that_of_the_recipe() -> None:
    fast = {"stages.first.cluster": {"launcher": "ray", "workers": 3, "gpu": True}}
    local = space_of(set=fast, trials={"cpus": 2}).trial_recipe({"optim.lr": 0.02})
    cluster: Any = local.stages["first"]
    assert cluster.cluster.launcher == "local"
    assert (cluster.cluster.workers, cluster.cluster.gpu) == (1, False)
    assert cluster.cluster.cpus_per_worker == 2
    ray = space_of(set=fast, trials={"launcher": "ray"}).trial_recipe({"optim.lr": 0.02})
    for label, workers in (("first", 3), ("second", 1)):
        stage: Any = ray.stages[label]
        assert (stage.cluster.launcher, stage.cluster.workers) == ("ray", workers)
    shared = space_of(trials={"gpus": 0.25}).trial_recipe({"optim.lr": 0.02})
    stage = shared.stages["second"]
    assert stage.cluster.gpu is True


def test_features_of_a_local_trial_are_extracted_in_its_own_process() -> None:
    recipe = ROOT / "recipes" / "omniglot_awgim.yaml"
    workers = {"stages.features.cluster": {"workers": 4}}
    space = space_of(recipe=str(recipe), set=workers)
    stage: Any = space.trial_recipe({"optim.lr": 0.02}).stages["features"]
    assert (stage.cluster.workers, stage.cluster.gpu) == (1, False)
    nested = space_of(recipe=str(recipe), set=workers, trials={"launcher": "ray"})
    stage = nested.trial_recipe({"optim.lr": 0.02}).stages["features"]
    assert stage.cluster.workers == 4


def test_the_whole_recipe_is_as_short_as_it_was_and_finds_the_stages_of_the_trial() -> None:
    search = {"optim.lr": RATE, "optim.clip.value": "own"}
    space = space_of(validation={"tasks": 30}, search=search)
    params = {"optim.lr": 0.02, "optim.clip.value": 1.5}
    whole = space.full_recipe(params)
    assert whole["stages"]["second"]["optim"]["lr"] == 0.02
    assert whole["stages"]["second"]["optim"]["clip"] == {"value": 1.5}
    assert whole["stages"]["second"]["validation"]["tasks"] == 30
    assert whole["stages"]["first"] == RECIPE["stages"]["first"]
    assert "run_dir" not in whole
    planned = plan(build(PipelineConfig, yaml.safe_load(yaml.safe_dump(whole, sort_keys=False))))
    trial = plan(space.trial_recipe(params))
    assert {label: stage.key for label, stage in trial.items()}.items() <= {
        label: stage.key for label, stage in planned.items()
    }.items()


def test_a_searched_setting_of_a_section_that_the_recipe_leaves_out_keeps_its_name() -> None:
    set_ = {"stages.second.data": {"cache": "none"}, "stages.second.method": {"name": "simclr"},
            "stages.second.episodes": None, "stages.second.optim": {"epochs": 12}}  # fmt: skip
    order = {"data.order.shuffle_block": {"low": 1, "high": 3}}
    space = space_of(set=set_, search=order)
    whole = space.full_recipe({"data.order.shuffle_block": 2})
    assert whole["stages"]["second"]["data"]["order"] == {"name": "shuffled", "shuffle_block": 2}


def test_several_recipes_are_one_conditional_space() -> None:
    space = two_recipes()
    assert names(space) == ["episodic.optim.lr", "episodic.method.metric", "plain.optim.lr"]
    params = draw(space, recipe="plain")
    assert set(params) == {"recipe", "plain.optim.lr"}
    recipe = space.trial_recipe(params)
    assert list(recipe.stages) == ["shards", "first"]
    assert space.branch_of(params).label == "plain"


def test_points_are_parameters_of_the_study() -> None:
    points = [{"optim.lr": 0.01, "stages.second.method.metric": "cosine"}, {"optim.lr": 0.1}]
    space = space_of(search={"optim.lr": RATE, "method.metric": "own"}, points=points)
    assert space.points() == [{"optim.lr": 0.01, "method.metric": "cosine"}, {"optim.lr": 0.1}]
    branch = {"recipe": RECIPE, "search": {"optim.lr": RATE}, "points": [{"optim.lr": 0.01}]}
    both = {"a": branch, "b": {"recipe": RECIPE, "search": {"optim.lr": RATE}}}
    config = build(StudyConfig, {"recipes": both})
    assert build_space(config).points() == [{"recipe": "a", "a.optim.lr": 0.01}]


def test_the_studys_seed_and_validation_are_those_of_all_recipes() -> None:
    space = two_recipes(seed=3, validation={"ways": 4, "tasks": 10})
    for branch in space.branches.values():
        assert branch.judged().validation.ways == 4
        assert branch.recipe().seed == 3


def test_what_is_searched_can_be_described() -> None:
    text = describe(space_of(search={"optim.lr": RATE, "episodes.ways": {"low": 2, "high": 8}}))
    assert "optim.lr       0.0001 to 0.1, logarithmic" in text
    assert "judged: second" in text
    assert "maximize val_accuracy" in text


class Fuzzy(Section):
    """A section of a plug-in."""

    rate: Annotated[float, Field(ge=0), Uniform(0.0, 0.5)] = 0.1


class PluginConfig(MethodConfig):
    """Settings of a method that this project has never heard of."""

    name: str = "plugged_in"
    depth: Annotated[int, Field(ge=1), IntRange(1, 9, step=2)] = 3
    shape: Annotated[tuple[int, int], Choice((1, 2), (3, 4))] = (1, 2)
    fuzzy: Fuzzy = Fuzzy()
    untuned: float = 1.0


class Plugin(Method[Episode]):
    """A method of somebody else."""

    Config = PluginConfig
    batch_type = Episode


def test_a_methods_ranges_make_it_tunable_without_further_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(METHODS._items, "plugged_in", Plugin)
    space = space_of(search={"method": "own"}, set={"stages.second.method": {"name": "plugged_in"}})
    assert names(space) == ["method.depth", "method.shape", "method.fuzzy.rate"]
    params = draw(space)
    recipe = space.trial_recipe(params)
    method: Any = recipe.stages["second"]
    assert method.method.depth == params["method.depth"]
    assert method.method.shape in ((1, 2), (3, 4))
    assert method.method.fuzzy.rate == params["method.fuzzy.rate"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_the_studies_that_come_with_the_project_can_be_searched(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    space = build_space(load_study(path))
    for _ in range(5):
        params = draw(space)
        recipe = space.trial_recipe(params)
        assert (
            build(PipelineConfig, space.full_recipe(params)).stages.keys() >= recipe.stages.keys()
        )


def test_what_only_the_data_can_show_is_found_before_any_trial(tmp_path: Path) -> None:
    space = space_of(
        set={"stages.shards.source": {"name": "omniglot", "root": str(tmp_path / "no")}}
    )
    with pytest.raises(ConfigError, match=r"recipe: stages\.shards"):
        space.check_plans()
    space_of(study_dir=str(tmp_path / "study")).check_plans()
    assert not (tmp_path / "study").exists()


def test_a_range_of_a_study_file_is_one_thing_or_the_other() -> None:
    assert RangeConfig(low=1, high=3).domain(whole=True) == IntRange(1, 3)
    assert RangeConfig(low=1, high=3).domain(whole=False) == Uniform(1.0, 3.0)
    assert RangeConfig(choices=[1, [2]]).domain(whole=True) == Choice(1, [2])
