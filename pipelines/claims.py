"""Mutual exclusion on an object store, which has no locks: claims that must be kept fresh.

Whoever wants a place writes a claim there and then lists all of them: it holds the place if no
other live claim is there, and otherwise takes its own back and tries again later. Of two that
write at the same time at least one sees the other. A holder rewrites its claim every few seconds;
a claim left behind by a killed process grows old, by the store's own clock, and counts no more.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import pyarrow as pa
from pyarrow import fs

from data_shards.location import Location
from fsl.errors import StorageError
from pipelines.lock import owner

BEAT_SECONDS = 15.0
"""How often a holder rewrites its claim."""
DEAD_SECONDS = 90.0
"""Age at which a claim counts no more."""
RETRY_SECONDS = 5.0
"""Mean time between two attempts."""
logger = logging.getLogger(__name__)


@contextmanager
def claimed(place: Location, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a place of an object store, waiting for it as long as it takes.

    Args:
        place: directory of the claims.
        on_wait: called once if another process holds it.

    Raises:
        StorageError: the store cannot be written or listed.
    """
    own = place / f"{uuid.uuid4().hex}.json"
    waited = False
    while not _won(own):
        own.delete()
        if not waited:
            waited = True
            on_wait()
        time.sleep(RETRY_SECONDS * random.uniform(0.5, 1.5))
    with _kept_fresh(own):
        yield


def _won(own: Location) -> bool:
    """Write a claim and return whether it is the only live one; clear dead ones away."""
    _write(own)
    ages = _moments(own.parent)
    now = ages.pop(own.path, None)
    if now is None:  # deleted by someone who held it for dead: this process was stopped for long
        return False
    dead = {path for path, then in ages.items() if (now - then).total_seconds() > DEAD_SECONDS}
    if len(dead) < len(ages):
        return False
    for path in dead:
        (own.parent / path.rpartition("/")[2]).delete()
    return True


def _write(claim: Location) -> None:
    claim.write_text(json.dumps(owner()))


def _moments(place: Location) -> dict[str, datetime]:
    """Return when each claim was last written, by the store's clock."""
    try:
        found = place.filesystem.get_file_info(fs.FileSelector(place.path, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{place}: cannot be listed: {error}") from error
    return {info.path: info.mtime for info in found if info.type == fs.FileType.File}


@contextmanager
def _kept_fresh(own: Location) -> Iterator[None]:
    """Rewrite a claim now and then while the `with` block runs; then take it back."""
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(own, ended), name="claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        try:
            own.delete()
        except StorageError as error:  # what was done in the place is done; the claim grows old
            logger.warning("%s", error)


def _beat(own: Location, ended: threading.Event) -> None:
    written = time.monotonic()
    while not ended.wait(BEAT_SECONDS):
        late = time.monotonic() - written
        if late > DEAD_SECONDS:
            logger.warning(
                "%s: not renewed for %.0f s; another process may have taken the place", own, late
            )
        try:
            _write(own)
            written = time.monotonic()
        except StorageError as error:  # a momentary fault: the next beat comes soon enough
            logger.warning("%s", error)
