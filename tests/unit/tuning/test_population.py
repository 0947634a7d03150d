"""Which settings a population may search, and what its members are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fsl.errors import ConfigError
from fsl.search_space import Choice, IntRange, Uniform
from tests.toy_study import write_study
from tuning.config import load_study
from tuning.pbt import member_job, tune_domain
from tuning.population import MemberJob
from tuning.space import build_space
from tuning.store import open_study


def job(folder: Path, search: dict[str, Any]) -> MemberJob:
    """Return what the members of a population over the toy recipe are told."""
    study = write_study(
        folder,
        search=search,
        finalists="-",
        sampler="-",
        pruner="-",
        population={"interval_epochs": 2},
    )
    config = load_study(study)
    (branch,) = build_space(config).branches.values()
    return member_job(config, branch)


def test_members_validate_at_every_exchange(tmp_path: Path) -> None:
    told = job(tmp_path, {"method.temperature": "own", "optim.lr": "own"})
    assert told.recipe["stages"]["second"]["validation"]["every_epochs"] == 2
    assert dict(told.keys) == {
        "method.temperature": "stages.second.method.temperature",
        "optim.lr": "stages.second.optim.lr",
    }


@pytest.mark.parametrize(
    "key", ["episodes.ways", "stages.first.optim.lr", "stages.first.data.batch_size"]
)
def test_what_cannot_change_in_the_middle_of_a_training_is_refused(
    tmp_path: Path, key: str
) -> None:
    with pytest.raises(ConfigError, match="cannot change while a population trains"):
        job(tmp_path, {key: "own"})


def test_what_decides_the_shape_of_the_network_is_refused(tmp_path: Path) -> None:
    key = "method.metric"  # cosine and Euclidean prototypes share their weights
    assert key in job(tmp_path, {key: "own"}).keys


def test_ranges_become_those_of_ray_tune() -> None:
    assert all(2 <= tune_domain(IntRange(2, 8, 2)).sample() <= 8 for _ in range(20))
    assert all(1e-3 <= tune_domain(Uniform(1e-3, 1.0, log=True)).sample() <= 1 for _ in range(20))
    assert {tune_domain(Choice((1, 2), (3, 4))).sample() for _ in range(40)} == {"[1, 2]", "[3, 4]"}


def test_a_population_is_continued_with_the_settings_it_wrote(tmp_path: Path) -> None:
    study = write_study(tmp_path, finalists="-", sampler="-", pruner="-", population={})
    config = load_study(study)
    for _ in range(2):
        with open_study(config) as store:
            assert store.study.get_trials() == []


@pytest.mark.parametrize(
    "settings",
    [
        {"loggers": {"mlflow": {}}},
        {"finalists": {"count": 9}},
        {"budget": {"trials": 4, "epochs": 3}},
        {"trials": {"checkpoint_gb": 1}},
        {"points": [{"optim.lr": 0.01}]},
    ],
)
def test_what_does_nothing_for_a_population_is_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings = {"finalists": "-", "sampler": "-", "pruner": "-", **settings}
    with pytest.raises(ConfigError, match="does nothing for a population; remove it"):
        load_study(write_study(tmp_path, population={}, **settings))
