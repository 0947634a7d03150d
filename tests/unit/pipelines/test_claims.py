"""Claims on a place of an object store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from data_shards.location import Location
from fsl.errors import StorageError
from pipelines import claims
from pipelines.claims import claimed


@pytest.fixture
def place(tmp_path: Path) -> Location:
    """A location that, like a bucket, has no path on this machine's disk."""
    (tmp_path / "bucket" / "claims").mkdir(parents=True)
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    return Location(store, "bucket/claims", "mock")


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "RETRY_SECONDS", 0.02)


def never() -> None:
    pytest.fail("waited")


def test_a_free_place_is_held_at_once_and_leaves_nothing(place: Location) -> None:
    for _ in range(2):
        with claimed(place, never):
            assert len(place.list()) == 1
        assert place.list() == []


def test_threads_hold_it_one_after_another(place: Location) -> None:
    inside, most, waits = [0], [0], [0]
    guard = threading.Lock()

    def wait() -> None:
        waits[0] += 1

    def work() -> None:
        for _ in range(5):
            with claimed(place, wait):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.005)
                with guard:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1]
    assert waits[0] > 0
    assert place.list() == []


def test_a_claim_that_is_not_renewed_counts_no_more_and_is_cleared_away(
    place: Location, tmp_path: Path
) -> None:
    left = tmp_path / "bucket" / "claims" / "left.json"
    left.write_text("{}")
    old = time.time() - claims.DEAD_SECONDS - 5
    os.utime(left, (old, old))
    with claimed(place, never):
        assert not left.exists()


def test_a_fresh_claim_of_another_is_waited_for(place: Location, tmp_path: Path) -> None:
    other = tmp_path / "bucket" / "claims" / "other.json"
    other.write_text("{}")
    waits: list[bool] = []

    def wait() -> None:
        waits.append(other.exists())
        other.unlink()

    with claimed(place, wait):
        assert waits == [True]


def test_a_holder_renews_its_claim_and_bears_faults_of_the_store(
    place: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    with claimed(place, never):
        moment = next(iter(claims._moments(place).values()))
        with monkeypatch.context() as patch:
            patch.setattr(claims, "DEAD_SECONDS", 0.03)
            patch.setattr(claims, "_write", _fail)
            _until(lambda: "not renewed" in caplog.text)
        _until(lambda: next(iter(claims._moments(place).values())) > moment)
    assert "the store is away" in caplog.text
    assert place.list() == []


def test_a_claim_that_cannot_be_taken_back_does_not_undo_what_was_done(
    place: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with claimed(place, never):
        monkeypatch.setattr(Location, "delete", _fail)
    assert "the store is away" in caplog.text


def _fail(claim: Location) -> None:
    raise StorageError("the store is away")


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
