"""Pipelines that share a run directory: each stage runs once, the others wait for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data_shards.location import Location
from fsl.errors import StageError
from pipelines import stage_lock as module
from pipelines.commands import Progress
from pipelines.runner import StageEvent, plan, run_pipeline
from pipelines.stage import STAGES
from pipelines.stage_lock import DIRECTORY, stage_lock

KEY = "0123456789abcdef"
HOLDER = """
import sys, time
from data_shards.location import Location
from pipelines.stage_lock import stage_lock
with stage_lock(Location.parse(sys.argv[1]), sys.argv[2], lambda: print("waits", flush=True)):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(module, "ORPHAN_SECONDS", 0.2)


class Slow:
    """Makes the first toy stage wait until it may end, and then end as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.calls = 0
        self.error: Exception | None = None
        monkeypatch.setattr(STAGES.get("toy_number"), "run", lambda *_: self._run())

    def _run(self) -> dict[str, float]:
        self.calls += 1
        error, self.error = self.error, None
        self.begun.set()
        assert self.may_end.wait(20)
        if error is not None:
            raise error
        return {"value": 1.0}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as pool:
        yield pool


class Heard:
    """The events of one run."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def __call__(self, event: StageEvent) -> None:
        self.states.append(f"{event.stage.label} {event.state}")

    def wait_for(self, state: str) -> None:
        until = time.monotonic() + 20
        while state not in self.states:
            assert time.monotonic() < until, f"{state} never came: {self.states}"
            time.sleep(0.01)


def test_concurrent_pipelines_run_a_shared_stage_once(
    recipe: Any, slow: Slow, pool: ThreadPoolExecutor
) -> None:
    first, second = Heard(), Heard()
    one = pool.submit(run_pipeline, recipe(), first, shared=True)
    assert slow.begun.wait(20)
    other = pool.submit(run_pipeline, recipe(stages__second__add=1.0), second, shared=True)
    second.wait_for("first waiting")
    slow.may_end.set()
    assert one.result(20)["second"].metrics["value"] == 2
    assert other.result(20)["second"].metrics["value"] == 3
    assert slow.calls == 1
    assert second.states == ["first waiting", "first skipped", "second started", "second done"]


def test_a_waiting_pipeline_runs_the_stage_itself_when_the_first_one_fails(
    recipe: Any, slow: Slow, pool: ThreadPoolExecutor
) -> None:
    slow.error = StageError("the planted fault")
    second = Heard()
    one = pool.submit(run_pipeline, recipe(), shared=True)
    assert slow.begun.wait(20)
    other = pool.submit(run_pipeline, recipe(), second, shared=True)
    second.wait_for("first waiting")
    slow.may_end.set()
    with pytest.raises(StageError, match="the planted fault"):
        one.result(20)
    assert other.result(20)["first"].metrics["value"] == 1
    assert second.states[:3] == ["first waiting", "first continued", "first done"]


def test_different_stages_do_not_wait_for_one_another(
    recipe: Any, slow: Slow, pool: ThreadPoolExecutor
) -> None:
    runs = [
        pool.submit(run_pipeline, recipe(stages__first__value=value), shared=True)
        for value in (1.0, 2.0)
    ]
    until = time.monotonic() + 20
    while slow.calls < 2:  # both at once
        assert time.monotonic() < until
        time.sleep(0.01)
    slow.may_end.set()
    for run in runs:
        run.result(20)


def test_a_pipeline_whose_stages_are_done_takes_no_lock(
    recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_pipeline(recipe(), shared=True)
    monkeypatch.setattr("pipelines.runner.stage_lock", lambda *_: pytest.fail("took a lock"))
    heard = Heard()
    run_pipeline(recipe(), heard, shared=True)
    assert heard.states == ["first skipped", "second skipped"]


def holder(root: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock; kill it with `kill`."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root), KEY], stdout=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_killed_holder_is_followed_after_its_workers_are_gone(tmp_path: Path) -> None:
    waited: list[float] = []
    with holder(tmp_path) as process:
        assert said(process) == "held"

        def killer() -> None:
            waited.append(time.monotonic())
            process.send_signal(signal.SIGKILL)

        with stage_lock(Location.parse(tmp_path), KEY, killer):
            assert time.monotonic() - waited[0] >= module.ORPHAN_SECONDS
    assert len(waited) == 1
    lock = tmp_path / DIRECTORY / KEY[:12]
    assert lock.read_text() == ""


def test_the_lock_of_a_run_that_ended_well_is_taken_at_once(tmp_path: Path) -> None:
    for _ in range(2):
        begun = time.monotonic()
        with stage_lock(Location.parse(tmp_path), KEY, lambda: pytest.fail("waited")):
            assert time.monotonic() - begun < module.ORPHAN_SECONDS


def test_a_stage_that_another_recipe_calls_differently_is_the_same_stage(
    recipe: Any, slow: Slow, pool: ThreadPoolExecutor
) -> None:
    heard = Heard()
    stages = {"a": {"kind": "toy_number"}, "b": {"kind": "toy_double", "needs": ["a"]}}
    one = pool.submit(run_pipeline, recipe(), shared=True)
    assert slow.begun.wait(20)
    other = pool.submit(run_pipeline, recipe(stages=stages), heard, shared=True)
    heard.wait_for("a waiting")
    slow.may_end.set()
    assert other.result(20)["a"].path == one.result(20)["first"].path
    assert heard.states[:2] == ["a waiting", "a skipped"]
    assert slow.calls == 1
    content = json.loads((other.result()["b"].path / "config.json").read_text())
    assert content["inputs"][0]["dir"] == one.result()["first"].path.name


def test_the_command_says_that_a_stage_is_waited_for(
    recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan(recipe())
    tell = Progress(planned)
    tell(StageEvent(planned["first"], "waiting"))
    tell(StageEvent(planned["first"], "stopped", seconds=2.0))
    assert capsys.readouterr().err.splitlines() == [
        "first   waits for another run that is at work on it",
        "first   stopped after 2.0 s",
    ]
