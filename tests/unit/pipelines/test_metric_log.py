"""Metrics on disk: complete lines, a restart drops what it will do again, others can follow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from data_shards.location import Location
from fsl.errors import StageError
from pipelines import metric_log
from pipelines.follow import Follower
from pipelines.metric_log import NAME, MetricLog, parse_lines, read_metrics
from pipelines.progress import ProgressLine
from pipelines.window import MetricWindow


def train_line(log: MetricLog, step: int, loss: float = 1.0) -> None:
    log.write("train", step, {"loss": loss, "images_per_second": 100.0})


def test_lines_are_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    out = Location.parse(tmp_path)
    with MetricLog(out) as log:
        train_line(log, 2)
        assert [line["step"] for line in read_metrics(out)] == [2]
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_restart_drops_the_steps_it_takes_again(tmp_path: Path) -> None:
    out = Location.parse(tmp_path)
    with MetricLog(out) as log:
        for step in (2, 4, 6, 8):
            train_line(log, step)
    with MetricLog(out, start=4) as log:
        train_line(log, 6, loss=0.5)
    assert [(line["step"], line["loss"]) for line in read_metrics(out)] == [
        (2, 1),
        (4, 1),
        (6, 0.5),
    ]


def test_a_run_from_the_start_begins_an_empty_file(tmp_path: Path) -> None:
    out = Location.parse(tmp_path)
    for _ in range(2):
        with MetricLog(out) as log:
            train_line(log, 2)
    assert len(read_metrics(out)) == 1


def test_a_momentary_fault_of_the_bucket_only_delays_a_line(
    s3_root: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metric_log, "UPLOAD_SECONDS", 0.0)
    out = Location.parse(s3_root) / "hiccup"
    with MetricLog(out) as log:
        bucket, log.place = log.place, Location.parse(s3_root.replace("//bucket", "//away")) / NAME
        train_line(log, 2)
        log.place = bucket
        assert read_metrics(out) == []
        train_line(log, 4)
        assert [line["step"] for line in read_metrics(out)] == [2, 4]
    assert caplog.text.count("cannot be written") == 1


def test_a_line_cut_by_a_kill_is_left_out() -> None:
    lines, length = parse_lines(b'{"step": 1}\n{"step": 2}\n{"ste')
    assert [line["step"] for line in lines] == [1, 2]
    assert length == 24


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    with MetricLog(Location.parse(tmp_path)) as log:
        train_line(log, 2, loss=float("inf"))
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None


def test_the_progress_line_follows_the_file_and_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Location.parse(tmp_path)
    with ProgressLine("pretrain", 20) as progress, Follower(out, progress.show) as follower:
        with MetricLog(out) as log:
            train_line(log, 2, loss=3.0)
            train_line(log, 4, loss=2.5)
            follower.update()
            assert progress.words() == "loss 2.5, 100 images/s"
            log.write("validation", 4, {"accuracy": 0.5})
            log.warn(4, "collapsed to uniform")
        follower.update()
        assert progress.words() == "loss 2.5, 100 images/s, val 50.00 %"
        with MetricLog(out, start=2) as log:
            follower.update()
            train_line(log, 4, loss=2.25)
        follower.update()
        assert progress.words().startswith("loss 2.25")
    assert "pretrain: step 4: collapsed to uniform" in caplog.text


def test_a_window_without_a_kept_step_has_no_loss_to_show(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Location.parse(tmp_path)
    window = MetricWindow(tolerated=2)
    bad = {"loss": torch.tensor(float("nan")), "skipped": torch.tensor(1.0)}
    window.add(0, bad, waited=0, images=8)
    with ProgressLine("pretrain", 20) as progress, Follower(out, progress.show) as follower:
        with MetricLog(out) as log:
            log.write("train", 1, window.close())
        follower.update()
        assert progress.shown["step"] == 1
        assert "loss" not in progress.words()
    assert not caplog.records


def test_a_listener_s_fault_is_said_and_the_others_still_hear(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[int] = []

    def broken(lines: Sequence[dict[str, Any]]) -> None:
        if lines:
            raise KeyError("loss")

    def listen(lines: Sequence[dict[str, Any]]) -> None:
        heard.extend(line["step"] for line in lines)

    out = Location.parse(tmp_path)
    with Follower(out, broken, listen), MetricLog(out) as log:
        train_line(log, 2)
    assert heard == [2]
    assert "KeyError('loss')" in caplog.text


def test_a_window_averages_and_names_the_first_bad_step() -> None:
    window = MetricWindow()
    for step, loss in ((4, 1.0), (5, 3.0)):
        window.add(
            step, {"loss": torch.tensor(loss), "rank": torch.tensor(2.0)}, waited=0, images=8
        )
    numbers = window.close()
    assert (numbers["loss"], numbers["rank"]) == (2.0, 2.0)
    for step, loss in ((6, 1.0), (7, float("nan")), (8, float("inf"))):
        window.add(
            step, {"loss": torch.tensor(loss), "rank": torch.tensor(2.0)}, waited=0, images=8
        )
    with pytest.raises(
        StageError, match=r"loss of step 7 is nan; averages around it: rank 2\. Lower"
    ):
        window.close()


def test_a_window_leaves_skipped_steps_out_of_its_averages() -> None:
    window = MetricWindow(tolerated=2)
    for step, loss in enumerate((1.0, float("nan"), float("inf"), 3.0)):
        skipped = torch.tensor(float(loss not in (1.0, 3.0)))
        window.add(step, {"loss": torch.tensor(loss), "skipped": skipped}, waited=0, images=8)
    numbers = window.close()
    assert (numbers["loss"], numbers["skipped"]) == (2.0, 0.5)
    for step in range(4, 7):
        bad = {"loss": torch.tensor(float("nan")), "skipped": torch.tensor(1.0)}
        window.add(step, bad, waited=0, images=8)
    with pytest.raises(StageError, match="loss of step 6 is nan"):
        window.close()


def test_a_window_leaves_gradients_that_are_not_finite_to_the_scaler_of_fp16() -> None:
    overflow = {"loss": torch.tensor(1.0), "gradient_norm": torch.tensor(float("inf"))}
    scaled = MetricWindow(scaled=True)
    scaled.add(0, overflow, waited=0, images=8)
    assert scaled.close()["loss"] == 1.0
    window = MetricWindow()
    window.add(0, overflow, waited=0, images=8)
    with pytest.raises(StageError, match=r"the gradients of step 0 are not finite \(loss 1\)"):
        window.close()


def test_the_progress_line_survives_a_file_that_a_restarted_run_wrote_anew(tmp_path: Path) -> None:
    out = Location.parse(tmp_path)
    lines = [
        json.dumps({"kind": "train", "step": step, "loss": 1.0, "images_per_second": 1.0})
        for step in range(1, 40)
    ]
    place = tmp_path / "metrics.jsonl"
    with ProgressLine("pretrain", 40) as progress, Follower(out, progress.show) as follower:
        place.write_text("".join(line + "\n" for line in lines[:9]))
        follower.update()
        assert progress.shown["step"] == 9
        place.write_text("".join(line + "  \n" for line in lines[:12]))  # longer, cut elsewhere
        follower.update()
        assert progress.shown["step"] == 12
