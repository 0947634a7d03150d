"""Where the log file of a run is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from pyarrow import fs

from data_shards.location import Location
from pipelines.quiet import configure_logging, release_logging


def test_logs_of_a_run_in_a_bucket_are_in_a_directory_of_the_user_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    try:
        log = configure_logging(Location(store, "bucket/runs", "mock"))
    finally:
        release_logging()
    assert log.parent == tmp_path / "tmp" / f"fewshot-logs-{os.getuid()}" / "runs"
