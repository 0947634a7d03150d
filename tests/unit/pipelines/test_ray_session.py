"""The word that a failed worker leaves: believed only in its own attempt."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from data_shards.location import Location
from fsl.errors import NonFiniteError, StageError, StorageError
from pipelines.ray_session import _leave_word, fatal_failure, read_failures, run_worker
from tests.toy_training import toy_config, toy_shards, toy_spec


def leave_word(out: Location, attempt: str, error: Exception, rank: int = 0) -> None:
    _leave_word(out, attempt, rank, time.time(), error)


def test_a_failure_of_an_earlier_attempt_ends_no_later_one(tmp_path: Path) -> None:
    out = Location.parse(tmp_path)
    leave_word(out, "one", NonFiniteError("the loss is nan"))
    assert fatal_failure(out, "two") is None
    record = fatal_failure(out, "one")
    assert record is not None
    assert (record["type"], record["message"]) == ("NonFiniteError", "the loss is nan")


def test_a_fault_of_the_storage_is_tried_again(tmp_path: Path) -> None:
    out = Location.parse(tmp_path)
    leave_word(out, "one", StorageError("s3://away: cannot be written"))
    assert fatal_failure(out, "one") is None
    assert [record["type"] for record in read_failures(out, "one")] == ["StorageError"]


def test_a_worker_that_does_not_see_the_run_says_so_and_writes_nothing(tmp_path: Path) -> None:
    spec = toy_spec(toy_config(), toy_shards(tmp_path / "shards"), tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    with pytest.raises(StageError, match=r"out: not on the disk of .*; set run_dir=s3://BUCKET"):
        run_worker(spec, "one")
    assert not (tmp_path / "out").exists()
