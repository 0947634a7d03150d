"""Ctrl-C during a training on Ray: the status of an interruption, one message, and it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_shards.location import Location
from pipelines.checkpoint import find_checkpoints
from tests import train_script
from tests.toy_training import episodic_config, toy_shards

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_ctrl_c_ends_a_training_on_ray_as_an_interruption(tmp_path: Path) -> None:
    shards = toy_shards(tmp_path / "shards")
    train = episodic_config(optim__epochs=100_000).model_dump(mode="json", exclude_none=True)
    stages = {
        "shards": {"kind": "use_shards", "path": str(shards.root)},
        "pretrain": {**train, "needs": ["shards"]},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"run_dir": str(tmp_path / "run"), "stages": stages}))
    run = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "run", str(recipe)],
        cwd=train_script.ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        out = _first_checkpoint(tmp_path / "run", run)
        os.kill(run.pid, signal.SIGINT)
        (said,) = train_script.end(run, timeout=120)
    finally:
        train_script.kill(run)
    assert run.returncode == 130, said
    assert "interrupted; run the same command again" in said
    assert "Traceback" not in said
    assert "started again" not in said
    assert find_checkpoints(out)


def _first_checkpoint(run_dir: Path, run: subprocess.Popen[str]) -> Location:
    """Return the stage's directory once it has a whole checkpoint."""
    until = time.monotonic() + 300
    while time.monotonic() < until and run.poll() is None:
        for place in run_dir.glob("pretrain-*"):
            if find_checkpoints(Location.parse(place)):
                return Location.parse(place)
        time.sleep(0.2)
    raise AssertionError(train_script.end(run, timeout=0.1))
