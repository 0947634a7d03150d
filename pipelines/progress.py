"""The progress line of a training run, drawn by the driver from the run's `metrics.jsonl`.

Without a terminal a line of log is written now and then instead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0


class ProgressLine:
    """Shows how far a training run is; a listener of `pipelines.follow.Follower`.

    Args:
        label: the stage's name in the recipe.
        total_steps: optimizer steps of the whole run.
    """

    def __init__(self, label: str, total_steps: int) -> None:
        self.label, self.total_steps = label, total_steps
        self.shown: dict[str, Any] = {}
        self._logged = time.monotonic()

    def __enter__(self) -> Self:
        self.bar: Any = tqdm(
            total=self.total_steps, desc=self.label, unit="step", disable=None, dynamic_ncols=True
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()

    def show(self, lines: Sequence[dict[str, Any]]) -> None:
        """Show new lines of metrics; none of them: keep the clock going."""
        for line in lines:
            if line["kind"] == "train":
                self.shown |= {"loss": line.get("loss"), "images/s": line["images_per_second"]}
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
