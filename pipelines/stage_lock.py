"""One run at a time of a stage, where several pipelines share a run directory.

Whoever comes second waits, and then finds the stage done, or runs it if the first one failed or
died. On a local disk the lock is the kernel's and ends with its process; on an object store it is a
claim that must be kept fresh. It is named by the stage's key, not by its label: two recipes may
call one stage differently.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_shards.location import Location
from pipelines.claims import claimed
from pipelines.lock import open_lock, signed, try_lock
from pipelines.places import KEY_DIGITS

DIRECTORY = ".locks"
POLL_SECONDS = 0.5
ORPHAN_SECONDS = 3.0
"""Workers of a killed driver live on for up to 2.5 s; its stage is left alone for so long."""


@contextmanager
def stage_lock(root: Location, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of one stage, waiting for it as long as it takes.

    Args:
        root: the run directory.
        key: the stage's key.
        on_wait: called once if another process holds the lock.

    Raises:
        StorageError: the lock cannot be written.
    """
    folder, name = root / DIRECTORY, key[:KEY_DIGITS]
    folder.make_dir()
    with (
        _local_lock(folder.local / name, on_wait)
        if folder.local is not None
        else claimed(folder / name, on_wait)
    ):
        yield


@contextmanager
def _local_lock(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    with open_lock(path) as stream:
        if not try_lock(stream, path):
            on_wait()
            while not try_lock(stream, path):
                time.sleep(POLL_SECONDS)
        if _holder_died(stream):
            time.sleep(ORPHAN_SECONDS)
        with signed(stream):
            yield


def _holder_died(stream: IO[str]) -> bool:
    """Return whether the lock's last holder is still named in it."""
    stream.seek(0)
    return bool(stream.read())
