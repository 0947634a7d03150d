"""Which settings a population may search, and what its members are told."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.schedulers.pbt import _explore
from ray.tune.search.variant_generator import generate_variants

from data_shards.location import Location
from fsl.errors import ConfigError
from fsl.search_space import Choice, IntRange, Uniform
from pipelines.watch import Report
from tests.toy_study import write_study
from tuning.config import StudyConfig, load_study
from tuning.pbt import (
    DONE,
    _write_down,
    first_settings,
    member_job,
    mutation,
    run_population,
    tune_domain,
    within,
)
from tuning.population import HISTORY, Member, MemberJob
from tuning.ranges import distribution, ends
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


def population(folder: Path, **changes: Any) -> StudyConfig:
    """Return the settings of a population over the toy recipe."""
    instead = {"finalists": "-", "sampler": "-", "pruner": "-", "population": {}}
    return load_study(write_study(folder, **{**instead, **changes}))


class BeganError(Exception):
    """Ray Tune would start processes now."""


def begin(config: StudyConfig, cpus: float, patch: pytest.MonkeyPatch) -> None:
    """Begin a population on a machine like this; raise `BeganError` where processes start."""

    def stop(tuner: tune.Tuner) -> None:
        raise BeganError

    machine = {"Resources": {"CPU": cpus}, "Alive": True}
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setattr(ray, "cluster_resources", lambda: machine["Resources"])
    patch.setattr(ray, "nodes", lambda: [machine])
    patch.setattr("tuning.pbt.ray_for", lambda config: nullcontext())
    patch.setattr(tune.Tuner, "fit", stop)
    with open_study(config) as store:
        run_population(config, build_space(config), store)


def test_members_validate_at_every_exchange(tmp_path: Path) -> None:
    told = job(tmp_path, {"method.temperature": "own", "optim.lr": "own"})
    assert told.recipe["stages"]["second"]["validation"]["every_epochs"] == 2
    assert dict(told.keys) == {
        "method.temperature": "stages.second.method.temperature",
        "optim.lr": "stages.second.optim.lr",
    }


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("episodes.ways", "own"),
        ("stages.first.optim.lr", "own"),
        ("stages.first.data.batch_size", "own"),
        ("optim.epochs", {"low": 2, "high": 8}),
        ("optim.optimizer", {"choices": ["adamw", "sgd"]}),
    ],
)
def test_what_cannot_change_in_the_middle_of_a_training_is_refused(
    tmp_path: Path, key: str, values: Any
) -> None:
    with pytest.raises(ConfigError, match=f"{key} cannot change while a population trains"):
        job(tmp_path, {key: values})


def test_every_choice_has_to_keep_the_shape_of_the_network(tmp_path: Path) -> None:
    """The first and the last of these do: no setting means false for this network."""
    fixed = {
        "stages.first.images": {"size": 64},
        "stages.first.backbone": {"name": "resnet12"},
        "stages.second.additions": {"drloc": {"loss": "cross_entropy", "warmup_epochs": 1}},
    }
    search = {"additions.drloc.pool": {"choices": [False, True, None]}}
    config = population(tmp_path, set=fixed, search=search)
    (branch,) = build_space(config).branches.values()
    with pytest.raises(ConfigError, match=r"drloc\.pool decides the shape of the network"):
        member_job(config, branch)


def test_what_decides_the_shape_of_the_network_is_refused(tmp_path: Path) -> None:
    key = "method.metric"  # cosine and Euclidean prototypes share their weights
    assert key in job(tmp_path, {key: "own"}).keys


def test_ranges_become_those_of_ray_tune() -> None:
    assert all(2 <= tune_domain(IntRange(2, 8, 2)).sample() <= 8 for _ in range(20))
    assert all(1e-3 <= tune_domain(Uniform(1e-3, 1.0, log=True)).sample() <= 1 for _ in range(20))
    assert {tune_domain(Choice((1, 2), (3, 4))).sample() for _ in range(40)} == {"[1, 2]", "[3, 4]"}


def test_changed_settings_stay_within_their_ranges() -> None:
    domains = {
        "kind": Choice("a", None, "c"),
        "width": Choice(32, 64, 128),
        "rate": Uniform(0.01, 0.1, log=True),
        "count": IntRange(2, 8, 3),
    }
    explore: Any = partial(
        _explore,
        mutations={name: mutation(domain) for name, domain in domains.items()},
        resample_probability=0.2,
        perturbation_factors=(1.2, 0.8),
        custom_explore_fn=partial(within, domains),
    )
    settings = {"kind": None, "width": 64, "rate": 0.09, "count": 8}
    seen = []
    for _ in range(300):
        settings, _words = explore(settings)
        seen.append(settings)
    assert {item["kind"] for item in seen} == {"a", None, "c"}
    assert {item["width"] for item in seen} == {32, 64, 128}
    assert {item["count"] for item in seen} <= {2, 5, 8}
    assert all(0.01 <= item["rate"] <= 0.1 for item in seen)
    for item in seen:
        for name, domain in domains.items():
            assert distribution(domain)._contains(distribution(domain).to_internal_repr(item[name]))


def test_members_that_a_kill_left_out_are_written_down(tmp_path: Path) -> None:
    study = write_study(tmp_path, finalists="-", sampler="-", pruner="-", population={})
    config = load_study(study)
    (branch,) = build_space(config).branches.values()
    params = {d.name: ends(d.domain)[0] for d in branch.dimensions}
    line = {"percent": 100, "value": 0.5, "epochs": 4, "params": params}
    for name in ("one", "two"):
        folder = tmp_path / "study" / "population" / name
        folder.mkdir(parents=True)
        (folder / "history.jsonl").write_text(json.dumps(line) + "\n")
    with open_study(config) as store:
        _write_down(config, branch, store)
        (tmp_path / "study" / "population" / "three").mkdir()
        (tmp_path / "study" / "population" / "three" / "history.jsonl").write_text(json.dumps(line))
        _write_down(config, branch, store)  # killed after two
        members = [trial.user_attrs["member"] for trial in store.study.trials]
        assert sorted(members) == ["one", "three", "two"]


def test_a_finished_population_does_not_grow(tmp_path: Path) -> None:
    study = write_study(
        tmp_path, finalists="-", sampler="-", pruner="-", population={}, budget={"trials": 4}
    )
    config = load_study(study)
    with open_study(config) as store:
        store.study.set_user_attr(DONE, 3)
        with pytest.raises(ConfigError, match=r"budget\.trials: 4, but this population"):
            run_population(config, build_space(config), store)


def test_a_population_that_has_begun_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BeganError):
        begin(population(tmp_path), 8, monkeypatch)
    with pytest.raises(ConfigError, match=r"budget\.trials: 5, but this population has 4 members"):
        begin(population(tmp_path, budget={"trials": 5}), 8, monkeypatch)


def test_the_seed_decides_what_members_begin_with(tmp_path: Path) -> None:
    def drawn(seed: int) -> list[float]:
        searcher = first_settings(population(tmp_path, seed=seed, budget={"trials": 3}))
        spec = {"rate": tune_domain(Uniform(1e-4, 1e-1, log=True))}
        variants = generate_variants(spec, random_state=searcher._random_state)
        return [config["rate"] for _, config in variants]

    assert drawn(3) == drawn(3) != drawn(4)


def test_a_member_is_done_at_its_last_step_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = object.__new__(Member)
    member.out, member.values = Location.parse(str(tmp_path)), {}

    def validated(step: int) -> dict[str, Any]:
        report = Report("second", step, 200, float(step), {"val_accuracy": 0.5})
        monkeypatch.setattr(Member, "_spec", lambda self: (None, 200))
        monkeypatch.setattr("tuning.population.run_here", lambda *_: member._pause(report))
        return member.step()

    assert (validated(199)["done"], validated(200)["done"]) == (False, True)
    lines = (tmp_path / HISTORY).read_text().splitlines()
    assert [json.loads(line)["percent"] for line in lines] == [99, 100]


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        (
            {"cpus": 2},
            r"budget\.trials: 4 members .* only 3 fit .* lower budget\.trials, or trials\.c",
        ),
        (
            {"concurrent": 2},
            r"budget\.trials: 4 members .* trials\.concurrent lets only 2; raise it",
        ),
    ],
)
def test_a_population_that_cannot_train_at_once_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: dict[str, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        begin(population(tmp_path, trials=trials), 7, monkeypatch)
    with pytest.raises(BeganError):
        begin(population(tmp_path), 4, monkeypatch)


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
