"""kill -9 of a worker, and of the driver, in mid-epoch: the final weights are the same."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from data_shards.location import Location
from data_shards.manifest import ShardSet
from pipelines.checkpoint import write_pointers
from pipelines.metric_log import read_metrics
from pipelines.model import load_model
from tests import train_script
from tests.toy_training import toy_shards, weights

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # Ray itself uses what Ray has deprecated
]

SETTINGS = ["optim.epochs=40", "validation.every_epochs=20", "log_every=1"]
"""240 steps of 6 per epoch; saved every 4 steps."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def expected(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    out = tmp_path_factory.mktemp("runs") / "through"
    train_script.main("local", str(shards.root), str(out), SETTINGS)
    return out


def assert_same(one: Path, other: Path) -> None:
    """Bit for bit equal weights, and the same loss at every step."""
    both = []
    for out in (one, other):
        write_pointers(Location.parse(out))
        both.append(weights(load_model(Location.parse(out), "last").method))
    assert all(torch.equal(value, both[1][key]) for key, value in both[0].items())
    losses = [
        {line["step"]: line.get("loss") for line in read_metrics(Location.parse(out))}
        for out in (one, other)
    ]
    assert losses[0] == losses[1]


def test_a_killed_worker_is_replaced(shards: ShardSet, expected: Path, tmp_path: Path) -> None:
    mark = tmp_path / "died"
    dying = ["method.die_at=123", f"method.die_mark={mark}"]
    run = train_script.start("ray", shards.root, tmp_path / "out", *SETTINGS, *dying)
    (said,) = train_script.end(run, timeout=300)
    assert run.returncode == 0, said
    assert mark.exists()
    assert_same(expected, tmp_path / "out")


def test_a_killed_controller_is_replaced(shards: ShardSet, expected: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = train_script.start("ray", shards.root, out, *SETTINGS)
    try:
        assert _wait_for_step(out, 60) < 240
        family = psutil.Process(run.pid).children(recursive=True)
        (controller,) = [p for p in family if p.cmdline()[0].startswith("ray::TrainController")]
        controller.kill()
        (said,) = train_script.end(run, timeout=300)
    finally:
        train_script.kill(run)
    assert run.returncode == 0, said
    assert_same(expected, out)


def test_a_killed_driver_goes_on_when_run_again(
    shards: ShardSet, expected: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = train_script.start("ray", shards.root, out, *SETTINGS)
    try:
        step = _wait_for_step(out, 60)
        os.kill(run.pid, signal.SIGKILL)
    finally:
        train_script.kill(run)
    assert 60 <= step < 240
    time.sleep(5)  # orphaned workers end by themselves within 2.5 s
    begun = max(line["step"] for line in read_metrics(Location.parse(out)))
    again = train_script.start("ray", shards.root, out, *SETTINGS)
    (said,) = train_script.end(again, timeout=300)
    assert again.returncode == 0, said
    assert begun < 240
    assert_same(expected, out)


def _wait_for_step(out: Path, step: int, seconds: float = 200) -> int:
    """Return the step reached, once it is at least `step`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (out / "metrics.jsonl").exists():
            lines = read_metrics(Location.parse(out))
            if lines and lines[-1]["step"] >= step:
                return int(lines[-1]["step"])
        time.sleep(0.05)
    raise AssertionError(f"{out}: step {step} was not reached in {seconds} s")
