"""Nodes leave and come: the run goes on with other numbers of workers, to the same result."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from data_shards.location import Location
from pipelines import ray_trainer
from pipelines.checkpoint import find_checkpoints
from pipelines.metric_log import read_metrics
from pipelines.ray_trainer import run_training
from pipelines.session import LocalSession
from pipelines.stages.train import plan_steps
from pipelines.trainer import Trainer
from tests.toy_training import toy_config, toy_shards, toy_spec

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # Ray itself uses what Ray has deprecated
]


def test_a_lost_node_shrinks_the_group_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
    shards = toy_shards(tmp_path / "shards")
    settings = {
        "validation__every_epochs": 0,
        "method__noise": 0.0,
        "backbone__drop_path": 0.0,
        "optim__epochs": 60,
        "log_every": 1,
    }
    config = toy_config(**settings, cluster__workers=[1, 2], checkpoint__keep=999)
    spec = toy_spec(config, shards, tmp_path / "elastic")
    ray = ray_trainer.ray
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        faults: list[BaseException] = []

        def train() -> None:
            try:
                run_training(spec, plan_steps(config, shards))
            except BaseException as error:
                faults.append(error)

        run = threading.Thread(target=train, daemon=True)
        run.start()
        _wait_for_step(spec.out, 40, run)
        cluster.remove_node(node, allow_graceful=False)
        run.join(timeout=400)
        assert not run.is_alive()
        assert not faults, faults
    finally:
        ray.shutdown()
        cluster.shutdown()
    worlds = {info.world_size for info in find_checkpoints(spec.out).values()}
    assert worlds == {1, 2}
    plain = toy_spec(config, shards, tmp_path / "plain")
    alone = Trainer(plain, LocalSession(plain.out))
    alone.fit()
    losses = [{line["step"]: line["loss"] for line in read_metrics(s.out)} for s in (spec, plain)]
    assert losses[0].keys() == losses[1].keys()
    # 360 steps let rounding grow; test_exactness compares the weights after a few
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def _wait_for_step(out: Location, step: int, run: threading.Thread, seconds: float = 400) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and run.is_alive():
        lines = read_metrics(out)
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"{out}: step {step} was not reached in {seconds} s")
