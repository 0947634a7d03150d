"""The progress line of a training run, drawn by the driver from the run's `metrics.jsonl`.

The workers may be on other machines: the file is what both sides see. Without a terminal a line
of log is written now and then instead.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from data_shards.location import Location
from fsl.errors import StorageError
from pipelines.metric_log import NAME, parse_lines

logger = logging.getLogger(__name__)

LOCAL_SECONDS, REMOTE_SECONDS, LOG_SECONDS = 0.5, 10.0, 30.0


class ProgressLine:
    """Follows a train stage's metrics while the `with` block runs.

    Args:
        out: the stage's directory.
        label: the stage's name in the recipe.
        total_steps: optimizer steps of the whole run.
    """

    def __init__(self, out: Location, label: str, total_steps: int) -> None:
        self.place, self.label, self.total_steps = out / NAME, label, total_steps
        self.seconds = LOCAL_SECONDS if out.local is not None else REMOTE_SECONDS
        self.shown: dict[str, Any] = {}
        self._read = 0
        self._logged = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self.bar: Any = tqdm(
            total=self.total_steps, desc=self.label, unit="step", disable=None, dynamic_ncols=True
        )
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
        self.bar.close()

    def update(self) -> None:
        """Read what is new and show it."""
        for line in self._news():
            if line["kind"] == "train":
                self.shown |= {"loss": line["loss"], "images/s": line["images_per_second"]}
            elif line["kind"] == "validation":
                self.shown |= {"val": line["accuracy"]}
            else:
                logger.warning("%s: step %d: %s", self.label, line["step"], line["message"])
            self.shown["step"] = line["step"]
        step = self.shown.get("step", 0)
        if step != self.bar.n and not self.bar.disable:
            if self.bar.n == 0:  # a resumed run: its earlier steps say nothing about its speed
                self.bar.initial = step
            self.bar.n = step
        self.bar.set_postfix_str(self.words())
        if self.bar.disable and time.monotonic() - self._logged > LOG_SECONDS and step:
            self._logged = time.monotonic()
            logger.info("%s: step %d of %d, %s", self.label, step, self.total_steps, self.words())

    def words(self) -> str:
        """Return loss, speed and validation accuracy as far as they are known."""
        parts = []
        if self.shown.get("loss") is not None:
            parts.append(f"loss {self.shown['loss']:.4g}")
        if self.shown.get("images/s") is not None:
            parts.append(f"{self.shown['images/s']:.0f} images/s")
        if self.shown.get("val") is not None:
            parts.append(f"val {100 * self.shown['val']:.2f} %")
        return ", ".join(parts)

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
