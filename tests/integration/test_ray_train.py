"""Real Ray Train runs: they fit, resume, explain their failures, and store to a bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.errors import StageError
from pipelines.checkpoint import find_checkpoints, write_pointers
from pipelines.metric_log import read_metrics
from pipelines.model import load_model
from pipelines.ray_trainer import run_training
from pipelines.session import LocalSession
from pipelines.stage import StageResult
from pipelines.stages.train import TrainStage, plan_steps, run_spec
from pipelines.trainer import Trainer
from tests.ray_cluster import local_cluster
from tests.toy_training import toy_config, toy_shards, toy_spec, weights

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),  # Ray itself uses what Ray has deprecated
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster with four logical CPUs for all tests here."""
    with local_cluster(cpus=4):
        yield


def test_a_stage_trains_like_the_loop_without_ray(shards: ShardSet, tmp_path: Path) -> None:
    config = toy_config(optim__epochs=2)
    result = StageResult("shards", "write_shards", "k", shards.root, {})
    out = Location.parse(tmp_path / "pretrain-0123")
    out.make_dir()
    numbers = TrainStage(config).run({"shards": result}, out)
    assert numbers["steps"] == 12
    assert 0 <= numbers["val_accuracy"] <= 1
    assert [line["step"] for line in read_metrics(out) if line["kind"] == "validation"] == [6, 12]
    assert any((tmp_path / "pretrain-0123" / "tensorboard").iterdir())
    plain = toy_spec(config, shards, tmp_path / "plain")
    trainer = Trainer(plain, LocalSession(plain.out))
    trainer.fit()
    trained = weights(load_model(out, "last").method)
    assert all(torch.equal(value, trained[key]) for key, value in weights(trainer.method).items())
    assert TrainStage(config).run({"shards": result}, out) == numbers  # nothing is left to do


@pytest.mark.slow
def test_what_a_user_must_mend_is_said_once_and_not_tried_again(
    shards: ShardSet, tmp_path: Path
) -> None:
    config = toy_config(
        validation__every_epochs=0, method__break_at=5, cluster__workers=2, cluster__max_failures=3
    )
    spec = toy_spec(config, shards, tmp_path / "broken")
    with pytest.raises(StageError, match=r"the loss of step 5 is nan; .*Lower optim\.lr"):
        run_training(spec, plan_steps(config, shards))
    (place,) = (tmp_path / "broken" / "failures").glob("*/rank-0.json")
    record = json.loads(place.read_text())
    assert record["fatal"]
    assert [info.step for info in find_checkpoints(spec.out).values()] == [4]


def test_workers_that_can_never_fit_are_refused_at_once(shards: ShardSet, tmp_path: Path) -> None:
    config = toy_config(cluster__workers=3, cluster__cpus_per_worker=2)
    with pytest.raises(
        StageError, match="3 workers need 6 CPU, but the Ray cluster has 4 CPU; lower"
    ):
        run_training(toy_spec(config, shards, tmp_path), 1)


@pytest.mark.slow
def test_a_bug_shows_the_last_lines_of_the_rank_that_failed_first(
    shards: ShardSet, tmp_path: Path
) -> None:
    config = toy_config(
        validation__every_epochs=0, method__classes=2, cluster__workers=2, cluster__max_failures=0
    )  # labels up to 11 for 2 classes
    with pytest.raises(StageError, match=r"(?s)worker of rank \d \(pid \d+ on .*failed first") as e:
        run_training(toy_spec(config, shards, tmp_path / "bug"), 1)
    assert "logs: " in str(e.value)
    assert "out of bounds" in str(e.value)


@pytest.mark.slow
def test_checkpoints_and_metrics_go_to_a_bucket(
    shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3 = pytest.importorskip("boto3")
    moto_server = pytest.importorskip("moto.server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        place = f"{host}:{port}"
        client = boto3.client("s3", endpoint_url=f"http://{place}", region_name="us-east-1")
        client.create_bucket(Bucket="runs")
        out = Location.parse(
            f"s3://testing:testing@runs/demo?scheme=http&endpoint_override={place}&region=us-east-1"
        )
        config = toy_config(optim__epochs=1, checkpoint__every_steps=4)
        spec = run_spec(config, shards, out)
        run_training(spec, plan_steps(config, shards))
        run_training(spec, plan_steps(config, shards))  # resumes at the end
        write_pointers(out)
        local = toy_spec(config, shards, tmp_path / "local")
        trainer = Trainer(replace(local, digest=spec.digest), LocalSession(local.out))
        trainer.fit()
        loaded = weights(load_model(out, "last").method)
        assert all(torch.equal(v, loaded[key]) for key, v in weights(trainer.method).items())
        assert len(read_metrics(out)) >= 3
        assert (out / "tensorboard").exists()
    finally:
        server.stop()
