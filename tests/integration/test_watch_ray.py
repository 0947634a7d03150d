"""Watched runs on Ray Train: stopped early, they free their workers, and can go on later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import Tensor

from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.config import build
from fsl.errors import NonFiniteError, OutOfMemoryError, StageError
from pipelines import ray_trainer
from pipelines.checkpoint import find_checkpoints
from pipelines.metric_log import read_metrics
from pipelines.model import load_model
from pipelines.runner import PipelineConfig, plan, run_pipeline
from pipelines.watch import Report, TrainingStopped, watching
from tests.ray_cluster import local_cluster
from tests.toy_training import toy_config, toy_shards, toy_spec, weights

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default"),  # Ray itself uses what Ray has deprecated
]
EPOCHS, STEPS = 20, 120


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two logical CPUs: a run of two workers that frees nothing leaves no room for another."""
    with local_cluster():
        yield


@pytest.fixture
def recipe(shards: ShardSet, tmp_path: Path) -> Callable[..., PipelineConfig]:
    """Return a function (run directory, settings) -> a run of two workers, or as they say."""

    def make(run: str, **changes: Any) -> PipelineConfig:
        settings = {"optim__epochs": EPOCHS, "cluster__workers": 2, **changes}
        train = toy_config(**settings).model_dump(mode="json")
        stages = {
            "shards": {"kind": "use_shards", "path": str(shards.root)},
            "pretrain": {**train, "needs": ["shards"]},
        }
        return build(PipelineConfig, {"run_dir": str(tmp_path / run), "stages": stages})

    return make


def trained(config: PipelineConfig) -> tuple[Location, Mapping[str, Tensor]]:
    path = plan(config)["pretrain"].path
    return path, weights(load_model(path, "last").method)


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def wait_for_free_cpus(seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while free_cpus() < 2:
        assert time.monotonic() < until, f"only {free_cpus()} of 2 CPUs are free"
        time.sleep(0.1)


def test_a_stopped_run_frees_its_workers_and_goes_on_to_the_same_weights(recipe: Any) -> None:
    reports: list[Report] = []

    def watch(report: Report) -> bool:
        reports.append(report)
        return report.step < 12

    stopped = recipe("stopped")
    with pytest.raises(TrainingStopped, match="step 12 of 120"), watching(watch):
        run_pipeline(stopped, shared=True)
    wait_for_free_cpus()
    path = plan(stopped)["pretrain"].path
    reached = max(info.step for info in find_checkpoints(path).values())
    assert 12 <= reached < STEPS
    assert [report.step for report in reports] == [6, 12]
    assert reports[0].epoch == 1
    assert {"val_accuracy", "val_half_width", "loss", "step_seconds"} <= set(reports[0].metrics)

    later: list[int] = []

    def keep(report: Report) -> bool:
        later.append(report.step)
        return True

    with watching(keep):
        run_pipeline(stopped, shared=True)
    assert later[-1] == STEPS
    assert later == list(range(later[0], STEPS + 1, 6))
    assert reached - 6 < later[0] <= reached + 6  # the last save may be in mid-epoch

    through = recipe("through")
    run_pipeline(through)
    expected, (path, got) = trained(through)[1], trained(stopped)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    steps = [line["step"] for line in read_metrics(path) if line["kind"] == "validation"]
    assert steps == list(range(6, STEPS + 1, 6))


def test_a_run_in_a_thread_stops_when_its_watcher_raises(recipe: Any) -> None:
    class Collapsed(Exception):
        pass

    def watch(report: Report) -> bool:
        raise Collapsed

    caught: list[BaseException] = []

    def run() -> None:
        try:
            with watching(watch):
                run_pipeline(recipe("thread", cluster__workers=1))
        except Collapsed as error:
            caught.append(error)

    thread = threading.Thread(target=run)  # as a trial of a sweep runs it
    thread.start()
    thread.join(120)
    assert caught
    wait_for_free_cpus()


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"method__break_at": 5}, NonFiniteError),
        ({"method__classes": 10**14}, OutOfMemoryError),  # 6 petabytes of weights
    ],
)
def test_the_reason_of_a_failure_can_be_read_from_its_cause(
    recipe: Any, settings: dict[str, Any], kind: type[Exception]
) -> None:
    config = recipe("failing", cluster__workers=1, cluster__max_failures=3, **settings)
    with pytest.raises(StageError, match="stage 'pretrain'") as caught:
        run_pipeline(config)
    assert type(caught.value.__cause__) is kind
    (attempt,) = (plan(config)["pretrain"].path / "failures").list()
    assert len(attempt.list()) == 1  # the group that Ray started again tried nothing


def test_a_worker_that_ray_ends_to_save_memory_is_out_of_memory(
    shards: ShardSet, tmp_path: Path
) -> None:
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    killed: Any = ray.exceptions.OutOfMemoryError
    death = WorkerHealthCheckFailedError("A worker health check failed.", killed("low on memory"))
    failed: Any = WorkerGroupError("workers", {0: death})
    error = ray_trainer._explained(toy_spec(toy_config(), shards, tmp_path), "one", failed)
    assert isinstance(error, OutOfMemoryError)
    assert "rank 0" in str(error)
