"""Watching a run on Ray Train from its driver: the workers are elsewhere, files are the channel.

The driver reads validations from `metrics.jsonl`, and writes the file `stop` to end the run; the
workers look for it at each pause.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from data_shards.location import Location
from fsl.errors import StorageError
from pipelines.checkpoint import SCORE
from pipelines.watch import COLLAPSED, Report, Watcher, stopped

STOP = "stop"
logger = logging.getLogger(__name__)
_NO_NUMBERS = {"kind", "step", "time", "epoch"}


def stop_asked(out: Location) -> bool:
    """Return whether the driver wants the run in `out` to end; for the workers."""
    try:
        return (out / STOP).exists()
    except StorageError as error:  # a momentary fault of the storage: the next pause looks again
        logger.warning("%s", error)
        return False


class WatchedRun:
    """Passes a run's validations on to a watcher, and its wish to stop to the workers.

    A listener of `pipelines.follow.Follower`.

    Args:
        out: the stage's directory; an earlier wish to stop is forgotten.
        label: the stage's name in the recipe.
        total_steps: optimizer steps of the whole run.
        watcher: None when nobody watches.
        after: step the run goes on from; what was validated until then is not reported again.
    """

    def __init__(
        self, out: Location, label: str, total_steps: int, watcher: Watcher | None, after: int = 0
    ) -> None:
        self.out, self.label, self.total_steps = out, label, total_steps
        self.watcher, self.reported = watcher, after
        self.error: Exception | None = None
        self._asked = False
        self._averages: Mapping[str, Any] = {}
        self._signs: dict[str, float] = {}
        (out / STOP).delete()

    def hear(self, lines: Sequence[dict[str, Any]]) -> None:
        """Report the validations among new lines; ask the workers to end if need be."""
        for line in lines:
            if line["step"] <= self.reported:
                continue
            if line["kind"] == "train":
                self._averages = line
            elif line["kind"] == "warning":
                self._signs = {COLLAPSED: 1.0}
            elif self.error is None and self.watcher is not None:
                self._report(line, self.watcher)
        if self.error is not None and not self._asked:
            self._ask()

    def settle(self) -> None:
        """After the run: raise what ended it early, if anything did.

        Raises:
            TrainingStopped: the watcher returned False; or whatever it raised.
        """
        if self.error is not None:
            raise self.error

    def _report(self, line: Mapping[str, Any], watcher: Watcher) -> None:
        self.reported = line["step"]
        numbers = {**self._averages, SCORE: line["accuracy"], "val_half_width": line["half_width"]}
        metrics = {
            name: value
            for name, value in numbers.items()
            if name not in _NO_NUMBERS and value is not None
        }
        report = Report(
            self.label,
            line["step"],
            self.total_steps,
            self._averages["epoch"],
            {**metrics, **self._signs},
        )
        try:
            if not watcher(report):
                self.error = stopped(self.label, line["step"], self.total_steps)
        except Exception as error:  # belongs to whoever watches: raised again by `settle`
            self.error = error

    def _ask(self) -> None:
        try:
            (self.out / STOP).write_text("")
            self._asked = True
        except StorageError as error:  # tried again at the next look
            logger.warning("%s", error)
