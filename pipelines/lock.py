"""One run at a time in a run directory.

On a local disk the lock is the kernel's (`flock`): it ends with the process that holds it, so a
killed run leaves nothing to clean up. Object stores have no locks: there an object names its
owner, which is best effort and says so in the message.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from data_shards.location import Location
from fsl.errors import StageError, StorageError
from pipelines.credentials import without_credentials

NAME = ".lock"
GRACE_SECONDS = 5.0
"""How long to wait for the children of a killed run, which hold its lock until they end."""
logger = logging.getLogger(__name__)


@contextmanager
def run_lock(root: Location) -> Iterator[None]:
    """Hold the lock of a run directory.

    Raises:
        StageError: another process holds it; the message names it.
    """
    root.make_dir()
    with _local_lock(root.local) if root.local is not None else _object_lock(root / NAME):
        yield


@contextmanager
def _local_lock(directory: Path) -> Iterator[None]:
    with open_lock(directory / NAME) as stream:
        _acquire(stream, directory / NAME)
        with signed(stream):
            yield


def open_lock(path: Path) -> IO[str]:
    """Return the file that a lock is on.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def signed(stream: IO[str]) -> Iterator[None]:
    """Name this process in a lock that it holds; a killed one's name stays."""
    stream.seek(0)
    stream.truncate()
    json.dump(owner(), stream)
    stream.flush()
    try:
        yield
    finally:  # emptied, not removed: another process may be waiting with the file open
        stream.seek(0)
        stream.truncate()


def try_lock(stream: IO[str], path: Path) -> bool:
    """Take the kernel's lock on an open file; return False when another one holds it.

    Raises:
        StorageError: the file cannot be locked.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise StorageError(f"{path}: cannot be locked: {error.strerror}") from error
        logger.warning("%s: this file system has no locks; start one run at a time", path)
    return True


def _acquire(stream: IO[str], path: Path) -> None:
    """Take the kernel's lock on an open file, waiting a little when its owner is dead."""
    deadline = time.monotonic() + GRACE_SECONDS
    while not try_lock(stream, path):
        holder = parse(path.read_text(encoding="utf-8"))
        if _is_alive(holder) or time.monotonic() > deadline:
            raise StageError(_refusal(path.parent, holder))
        time.sleep(0.1)


@contextmanager
def _object_lock(target: Location) -> Iterator[None]:
    if target.exists():
        holder = parse(target.read_text())
        if holder and (_is_alive(holder) or holder.get("host") != socket.gethostname()):
            raise StageError(
                f"{_refusal(target.parent, holder)}. If that process is gone, delete {target}"
            )
    target.write_text(json.dumps(owner()))
    try:
        yield
    finally:
        target.delete()


def owner() -> dict[str, Any]:
    """Return what a lock says of this process."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": without_credentials(" ".join(sys.argv)),
    }


def parse(text: str) -> dict[str, Any]:
    """Return the holder written in a lock; nothing when it was cut off in the middle."""
    try:
        holder = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_alive(holder: dict[str, Any]) -> bool:
    """Return whether the holder is a live process of this machine (other machines: unknown)."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refusal(root: object, holder: dict[str, Any]) -> str:
    return (
        f"{root}: another run is using this directory (process {holder.get('pid', 'unknown')} on "
        f"{holder.get('host', 'an unknown machine')}, since {holder.get('since', 'unknown')}); "
        "wait for it or choose another run_dir=..."
    )
