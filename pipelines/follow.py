"""Following a run's `metrics.jsonl` from the driver's side.

The workers may be on other machines: the file is what both sides see.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from data_shards.location import Location
from fsl.errors import StorageError
from pipelines.metric_log import NAME, parse_lines

logger = logging.getLogger(__name__)
LOCAL_SECONDS, REMOTE_SECONDS = 0.5, 10.0

Listener = Callable[[Sequence[dict[str, Any]]], None]
"""Told the new lines at every look; none most of the time."""


class Follower:
    """Tells listeners the new lines of metrics, from a thread, while the `with` block runs.

    Args:
        out: the stage's directory.
        listeners: told in this order; one that waits holds up the others.
    """

    def __init__(self, out: Location, *listeners: Listener) -> None:
        self.place, self.listeners = out / NAME, listeners
        self.seconds = LOCAL_SECONDS if out.local is not None else REMOTE_SECONDS
        self._read = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.update()

    def update(self) -> None:
        """Read what is new and tell it."""
        lines = self._news()
        for listener in self.listeners:
            try:
                listener(lines)
            except Exception as error:  # who looks on must not end the run, nor the looking
                logger.warning("%s: new lines cannot be told: %r", self.place, error, exc_info=True)

    def _follow(self) -> None:
        while not self._ended.wait(self.seconds):
            self.update()

    def _news(self) -> list[dict[str, Any]]:
        """Return the lines not yet seen; of a file that a restarted run wrote anew, all lines."""
        try:
            if not self.place.exists() or self.place.size() == self._read:
                return []
            content = self._after(self._read)
            if content is None:
                self._read = 0
                content = self._after(0) or b""
        except StorageError:  # a momentary fault of the storage must not end a training run
            return []
        lines, length = parse_lines(content)
        self._read += length
        return lines

    def _after(self, position: int) -> bytes | None:
        """Return what follows `position`, or None if no line of the file ends there."""
        with self.place.open_input() as stream:
            if position > stream.size():
                return None
            stream.seek(max(position - 1, 0))
            content = bytes(stream.read())
        if not position:
            return content
        return content[1:] if content[:1] == b"\n" else None
