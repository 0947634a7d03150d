"""Methods that learn from episodes train on Ray: workers share the tasks of a step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_shards.location import Location
from data_shards.manifest import ShardSet
from pipelines.checkpoint import find_checkpoints, write_pointers
from pipelines.metric_log import read_metrics
from pipelines.model import load_model
from tests import train_script
from tests.ray_cluster import local_cluster
from tests.toy_training import toy_features, toy_shards, weights

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # Ray itself uses what Ray has deprecated
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster with two logical CPUs for all tests here."""
    with local_cluster():
        yield


def trained(data: Location, out: Path, workers: int, *settings: str) -> list[dict[str, Any]]:
    """Train on Ray and return what was logged."""
    train_script.main("ray", str(data), str(out), [*settings, f"cluster.workers={workers}"])
    place = Location.parse(out)
    assert {info.world_size for info in find_checkpoints(place).values()} == {workers}
    return read_metrics(place)


def values(lines: list[dict[str, Any]], kind: str, name: str) -> list[float]:
    return [line[name] for line in lines if line["kind"] == kind]


def test_two_workers_train_a_protonet_like_one(shards: ShardSet, tmp_path: Path) -> None:
    settings = ("toy=episodes", "optim.epochs=5", "backbone.drop_path=0", "log_every=1")
    one = trained(shards.root, tmp_path / "one", 1, *settings)
    two = trained(shards.root, tmp_path / "two", 2, *settings)
    losses = values(one, "train", "loss")
    assert len(losses) == 15
    assert len(set(losses)) == 15
    assert values(two, "train", "loss") == pytest.approx(losses, rel=1e-5)
    accuracies = values(one, "validation", "accuracy")
    assert len(accuracies) == 5
    assert values(two, "validation", "accuracy") == pytest.approx(accuracies, abs=0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_awgim_trains_on_a_feature_table(workers: int, shards: ShardSet, tmp_path: Path) -> None:
    """Two workers draw other noise than one, so only one can be compared weight by weight."""
    table = toy_features(tmp_path / "features", shards, spread=3.0)
    settings = ["toy=features", "optim.epochs=30", "log_every=1"]
    lines = trained(table, tmp_path / "ray", workers, *settings)
    losses = values(lines, "train", "loss")
    assert len(losses) == 90
    assert sum(losses[-9:]) < 0.7 * sum(losses[:9])
    assert values(lines, "validation", "accuracy")[-1] > 0.7  # chance is a third
    learnt = result(tmp_path / "ray")
    assert all(bool(value.isfinite().all()) for value in learnt.values())
    if workers == 1:
        train_script.main("local", str(table), str(tmp_path / "plain"), settings)
        plain = result(tmp_path / "plain")
        assert all(torch.equal(value, learnt[name]) for name, value in plain.items())


def result(out: Path) -> dict[str, torch.Tensor]:
    place = Location.parse(out)
    write_pointers(place)
    return dict(weights(load_model(place, "last").method))
