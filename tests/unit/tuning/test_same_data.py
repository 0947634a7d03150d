"""Trials of one study, and recipes in it, are of one data set."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_shards.location import Location
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.config import build
from fsl.errors import ConfigError
from tests.toy_study import RECIPE, write_study
from tuning.config import StudyConfig, load_study
from tuning.ledger import Ledger
from tuning.outcome import Outcome, TrialNews
from tuning.same_data import check_data
from tuning.space import build_space
from tuning.store import open_study
from tuning.warm_start import warm_start


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two shard sets that differ in the seed of what is drawn."""
    places = []
    for seed in range(2):
        source = build(StrokesConfig, {**RECIPE["stages"]["shards"]["source"], "seed": seed})
        place = Location.parse(tmp_path_factory.mktemp("set"))
        write_shards(source, place, progress=False)
        places.append(str(place))
    return places


def recipe(folder: Path, shards: str, name: str = "recipe.yaml") -> None:
    """Write a recipe over a shard set."""
    tree = copy.deepcopy(RECIPE)
    tree["stages"]["shards"] = {"kind": "use_shards", "path": shards}
    (folder / name).write_text(yaml.safe_dump(tree, sort_keys=False))


def study(folder: Path, shards: str, **changes: Any) -> StudyConfig:
    path = write_study(folder, **changes)
    recipe(folder, shards)
    return load_study(path)


def test_a_study_does_not_go_on_with_other_data(tmp_path: Path, sets: list[str]) -> None:
    for shards in (sets[0], sets[0]):
        config = study(tmp_path, shards)
        data = build_space(config).check_plans()
        with open_study(config) as store:
            check_data(store, data)
    config = study(tmp_path, sets[1])
    with open_study(config) as store, pytest.raises(ConfigError, match="are of other data than"):
        check_data(store, build_space(config).check_plans())


def test_recipes_over_other_shards_are_not_ranked_together(tmp_path: Path, sets: list[str]) -> None:
    recipes = {name: {"recipe": f"{name}.yaml", "search": {"optim.lr": "own"}} for name in "ab"}
    path = write_study(tmp_path, recipe="-", search="-", recipes=recipes)
    for name, shards in zip("ab", (sets[0], sets[0]), strict=True):
        recipe(tmp_path, shards, f"{name}.yaml")
    build_space(load_study(path)).check_plans()
    recipe(tmp_path, sets[1], "b.yaml")
    with pytest.raises(ConfigError, match="'a' and 'b' read different data"):
        build_space(load_study(path)).check_plans()


@pytest.mark.parametrize("other", ["data", "epochs"])
def test_trials_of_other_data_or_length_are_no_warm_start(
    tmp_path: Path, sets: list[str], other: str
) -> None:
    before = study(tmp_path, sets[0], study_dir=str(tmp_path / "before"), sampler={"name": "tpe"})
    space = build_space(before)
    with open_study(before, space) as store:
        check_data(store, space.check_plans())
        trial = store.study.ask()
        space.suggest(trial)
        store.study.tell(trial, 0.5)
    shards = sets[1] if other == "data" else sets[0]
    changes = {"set": {"stages.second.optim.epochs": 3}} if other == "epochs" else {}
    config = study(
        tmp_path, shards, warm_start=[str(before.root)], sampler={"name": "tpe"}, **changes
    )
    space = build_space(config)
    words = "are of other data" if other == "data" else "judged with optim.epochs: 4, this study"
    with open_study(config, space) as store:
        check_data(store, space.check_plans())
        with pytest.raises(ConfigError, match=f"{words}.*as points"):
            warm_start(config, space, store)


def test_a_trial_lost_to_a_fault_can_be_had_again(tmp_path: Path, sets: list[str]) -> None:
    """A full disk says nothing about the settings, which the user named himself."""
    point = {"method.temperature": 2.0, "optim.lr": 0.01}
    config = study(tmp_path, sets[0], points=[point])
    for fates in (["failed"], ["complete"], []):
        with open_study(config) as store:
            waiting = [t for t in store.study.trials if t.state.name == "WAITING"]
            assert len(waiting) == len(fates)
            for fate in fates:
                ledger = Ledger(config, build_space(config), store)
                job = ledger.next()
                assert job is not None
                assert store.study.trials[job.number].params == point
                if fate == "failed":
                    ledger.lost(job.number, "no space left on the disk")
                else:
                    ledger.finish(job.number, TrialNews(Outcome.COMPLETE, values=[0.5]))
