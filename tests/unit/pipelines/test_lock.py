"""The lock of a run directory: one run at a time, and a killed run leaves no lock."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs

from data_shards.location import Location
from fsl.errors import StageError
from pipelines.lock import NAME, run_lock

HOLDER = """
import sys, time
from pathlib import Path
from data_shards.location import Location
from pipelines.lock import run_lock
with run_lock(Location.parse(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_names_the_first(tmp_path: Path) -> None:
    root = Location.parse(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StageError, match=f"process {holder.pid} on {socket.gethostname()}"):
            run_lock(root).__enter__()
        holder.send_signal(signal.SIGKILL)
    with run_lock(root):  # the kernel released what the killed process held
        pass


def test_the_lock_can_be_taken_again_after_it_was_released(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(Location.parse(tmp_path)):
            assert json.loads((tmp_path / NAME).read_text())["host"] == socket.gethostname()
        assert (tmp_path / NAME).read_text() == ""


def store(tmp_path: Path) -> Location:
    """Return a location that, like a bucket, has no path on this machine's disk."""
    (tmp_path / "bucket").mkdir(exist_ok=True)
    return Location(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "bucket", "mock")


def test_an_object_store_names_the_owner_too(tmp_path: Path) -> None:
    root = store(tmp_path)
    with run_lock(root), pytest.raises(StageError, match=r"If that process is gone, delete"):
        run_lock(root).__enter__()
    assert not (root / NAME).exists()


def test_a_dead_owner_on_an_object_store_is_replaced(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock = store(tmp_path) / NAME
    lock.write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    with run_lock(store(tmp_path)):
        assert json.loads(lock.read_text())["pid"] != dead.pid


def test_an_owner_on_another_machine_is_believed(tmp_path: Path) -> None:
    lock = store(tmp_path) / NAME
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(StageError, match="process 1 on elsewhere"):
        run_lock(store(tmp_path)).__enter__()
