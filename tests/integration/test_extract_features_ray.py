"""Feature extraction by several Ray processes: the same files, whoever writes them and dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_shards.features import FeatureSet
from data_shards.location import Location
from fsl.errors import ShardError, StageError
from pipelines import ray_extract
from pipelines.extraction import ExtractionCluster
from pipelines.stages import extract_features
from tests.finished_run import FinishedRun
from tests.ray_cluster import local_cluster

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),  # Ray itself uses what Ray has deprecated
]
NEEDS = ["shards", "pretrain"]
SETTINGS = {"batch_size": 13, "cluster": {"workers": 2, "gpu": "auto"}}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster with two logical CPUs for all tests here."""
    with local_cluster():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    """Nine parts, written here by this process."""
    made = FinishedRun(tmp_path_factory.mktemp("extract"))
    made.shards()
    made.model("pretrain", "masked_distillation", ["shards"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_features, "ROWS_PER_PART", 30)
        made.run("here", "extract_features", {"batch_size": 13}, NEEDS)
        yield made


def contents(place: Location) -> dict[str, bytes]:
    assert place.local is not None
    return {file.name: file.read_bytes() for file in place.local.glob("*.parquet")}


def worker_processes() -> list[int]:
    """Return the processes of this test's own cluster that extract features."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if words.startswith(b"ray::Extractor") and os.getpid() in ancestors(entry.name):
            found.append(int(entry.name))
    return found


def ancestors(process: str) -> Iterator[int]:
    while process not in ("0", "1"):
        status = Path("/proc", process, "stat").read_text()
        process = status.rpartition(")")[2].split()[1]
        yield int(process)


def test_several_processes_write_the_same_files_and_need_not_all_start(
    run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "one whose autoscaler adds no nodes")  # this one is used
    settings = {**SETTINGS, "cluster": {"workers": 4}}
    features = run.run("there", "extract_features", settings, NEEDS)
    expected = contents(run.results["here"].path)
    assert len(expected) == 9
    assert contents(features.path) == expected
    assert features.metrics["images"] == 252
    assert FeatureSet.open(features.path).splits == ["base", "val", "novel"]


def test_a_killed_process_is_replaced_and_the_files_are_the_same(
    run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    original: Any = ray_extract.extract_on_ray

    def killing(job: Any, parts: Any, cluster: Any, on_images: Any) -> None:
        def watch(images: int) -> None:
            on_images(images)
            if not killed:
                killed.append(worker_processes()[0])
                os.kill(killed[0], signal.SIGKILL)

        original(job, parts, cluster, watch)

    monkeypatch.setattr(ray_extract, "extract_on_ray", killing)
    features = run.run("killed", "extract_features", SETTINGS, NEEDS)
    assert killed
    assert contents(features.path) == contents(run.results["here"].path)


def test_a_fault_in_the_data_is_said_as_in_one_process_and_work_is_kept(run: FinishedRun) -> None:
    shard = run.results["shards"].path / "novel" / "novel-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    try:
        with pytest.raises(ShardError, match=r"novel-000000\.tar") as error:
            run.run("damaged", "extract_features", SETTINGS, NEEDS)
        assert "ray" not in str(error.value).lower()
    finally:
        shard.write_bytes(whole)
    kept = contents(run.root / "damaged-cccc")
    assert "base-00000-of-00003.parquet" in kept
    assert len(kept) < 9
    features = run.run("damaged", "extract_features", SETTINGS, NEEDS)
    assert contents(features.path) == contents(run.results["here"].path)


def test_a_process_that_can_never_fit_is_refused_at_once(run: FinishedRun) -> None:
    settings = {"cluster": {"workers": 2, "cpus_per_worker": 3}}
    with pytest.raises(StageError, match="one process needs 3 CPU, but the Ray cluster has 2 CPU"):
        run.run("large", "extract_features", settings, NEEDS)


def test_no_more_processes_are_asked_for_than_this_machine_can_run() -> None:
    wanted = ExtractionCluster(workers=5, cpus_per_worker=2)
    assert ray_extract._processes(wanted, False, {"CPU": 5.0}) == 2
    assert ray_extract._processes(wanted, False, {"CPU": 99.0}) == 5
    assert ray_extract._processes(wanted, True, {"CPU": 99.0, "GPU": 3.0}) == 3
