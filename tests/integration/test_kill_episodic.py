"""Episodic training and AWGIM: kill -9 in mid-epoch, and two processes that share the tasks."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from data_shards.location import Location
from data_shards.manifest import ShardSet
from pipelines.checkpoint import write_pointers
from pipelines.metric_log import read_metrics
from pipelines.model import load_model
from tests import train_script
from tests.toy_training import toy_features, toy_shards, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SETTINGS = ["optim.epochs=60", "validation.every_epochs=30", "log_every=1"]
"""180 steps of 3 per epoch; saved every 4 steps."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def features(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Location:
    return toy_features(tmp_path_factory.mktemp("features"), shards)


def trained(out: Path) -> dict[str, torch.Tensor]:
    place = Location.parse(out)
    write_pointers(place)
    return dict(weights(load_model(place, "last").method))


@pytest.mark.parametrize("toy", ["episodes", "features"])
def test_a_killed_process_goes_on_when_run_again(
    toy: str, shards: ShardSet, features: Location, tmp_path: Path
) -> None:
    data = shards.root if toy == "episodes" else features
    settings = [f"toy={toy}", *SETTINGS]
    train_script.main("local", str(data), str(tmp_path / "through"), settings)
    out = tmp_path / "killed"
    run = train_script.start("local", data, out, *settings)
    step = 0
    until = time.monotonic() + 200
    while step < 50 and time.monotonic() < until:
        time.sleep(0.01)
        if (out / "metrics.jsonl").exists():
            step = max((line["step"] for line in read_metrics(Location.parse(out))), default=0)
    os.kill(run.pid, signal.SIGKILL)
    train_script.end(run, timeout=20)
    assert 50 <= step < 180
    (said,) = train_script.end(train_script.start("local", data, out, *settings), timeout=300)
    killed, through = trained(out), trained(tmp_path / "through")
    assert killed.keys() == through.keys(), said
    assert all(torch.equal(value, killed[name]) for name, value in through.items())
    losses = [
        {line["step"]: line.get("loss") for line in read_metrics(Location.parse(place))}
        for place in (out, tmp_path / "through")
    ]
    assert losses[0] == losses[1]


def test_two_gloo_ranks_train_like_one_process(shards: ShardSet, tmp_path: Path) -> None:
    """AWGIM draws its noise anew on each rank, so only episodes of images can be compared."""
    plain = ["toy=episodes", "optim.epochs=5", "validation.every_epochs=0", "log_every=1"]
    plain += ["backbone.drop_path=0"]
    one, two = tmp_path / "one", tmp_path / "two"
    train_script.main("local", str(shards.root), str(one), plain)
    ranks = [
        train_script.start("gloo", shards.root, two, *plain, RANK=str(rank), WORLD_SIZE="2")
        for rank in range(2)
    ]
    said = train_script.end(*ranks, timeout=200)
    assert [rank.returncode for rank in ranks] == [0, 0], said
    losses = [
        [line["loss"] for line in read_metrics(Location.parse(place)) if line["kind"] == "train"]
        for place in (one, two)
    ]
    assert len(losses[0]) == 15
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
