"""The driver's side of watching a run on Ray, on lines of metrics as workers write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_shards.location import Location
from fsl.errors import StorageError
from pipelines.ray_watch import STOP, WatchedRun, stop_asked
from pipelines.watch import Report, TrainingStopped


def train(step: int, **numbers: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "time": 1.0, "epoch": step / 6, "loss": 2.0, **numbers}


def validation(step: int, accuracy: float = 0.5) -> dict[str, Any]:
    line = {"kind": "validation", "step": step, "time": 1.0}
    return {**line, "accuracy": accuracy, "half_width": 0.1}


class Seen:
    """A watcher that keeps what it is told, and answers always the same."""

    def __init__(self, verdict: bool = True) -> None:
        self.verdict = verdict
        self.reports: list[Report] = []

    def __call__(self, report: Report) -> bool:
        self.reports.append(report)
        return self.verdict

    @property
    def steps(self) -> list[int]:
        return [report.step for report in self.reports]


@pytest.fixture
def out(tmp_path: Path) -> Location:
    return Location.parse(tmp_path)


def test_a_validation_is_reported_with_the_averages_before_it(out: Location) -> None:
    seen = Seen()
    run = WatchedRun(out, "distill", 18, seen)
    run.hear([train(4), train(6, gradient_norm=None), validation(6, 0.25)])
    run.hear([])
    run.settle()
    assert seen.reports == [
        Report("distill", 6, 18, 1.0, {"loss": 2.0, "val_accuracy": 0.25, "val_half_width": 0.1})
    ]
    assert not stop_asked(out)


def test_what_was_validated_before_is_not_reported_again(out: Location) -> None:
    seen = Seen()
    run = WatchedRun(out, "distill", 18, seen, after=6)
    lines = [train(6), validation(6), train(12), validation(12)]
    run.hear(lines)
    run.hear(lines)  # workers that were replaced wrote the file anew
    assert seen.steps == [12]


def test_no_asks_the_workers_to_end_and_asks_the_watcher_no_more(out: Location) -> None:
    seen = Seen(verdict=False)
    run = WatchedRun(out, "distill", 18, seen)
    run.hear([train(6), validation(6), train(12), validation(12)])
    run.hear([train(18), validation(18)])
    assert seen.steps == [6]
    assert stop_asked(out)
    with pytest.raises(TrainingStopped, match="'distill' was stopped at step 6 of 18"):
        run.settle()
    WatchedRun(out, "distill", 18, None)  # begun again
    assert not stop_asked(out)


def test_what_the_watcher_raises_ends_the_run_and_comes_out(out: Location) -> None:
    def watch(report: Report) -> bool:
        raise ZeroDivisionError

    run = WatchedRun(out, "distill", 18, watch)
    run.hear([train(6), validation(6)])
    assert stop_asked(out)
    with pytest.raises(ZeroDivisionError):
        run.settle()


def test_a_warning_of_the_method_marks_later_reports(out: Location) -> None:
    seen = Seen()
    run = WatchedRun(out, "distill", 18, seen)
    warning = {"kind": "warning", "step": 11, "message": "flat"}
    run.hear([train(6), validation(6), warning, train(12), validation(12)])
    assert [report.metrics.get("collapsed") for report in seen.reports] == [None, 1.0]


def test_a_fault_of_the_storage_is_tried_again(
    out: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = WatchedRun(out, "distill", 18, Seen(verdict=False))

    def fail(*_: object) -> None:
        raise StorageError("the bucket is away")

    with monkeypatch.context() as patch:
        patch.setattr(Location, "write_text", fail)
        patch.setattr(Location, "exists", fail)
        run.hear([train(6), validation(6)])
        assert not stop_asked(out)
    assert caplog.text.count("the bucket is away") == 2
    run.hear([])
    assert (out / STOP).exists()
