"""The numbers of a training run: `metrics.jsonl`, one JSON object per line, and TensorBoard.

Only rank 0 writes. The file is also the channel to the progress line: whoever can see the stage's
directory, on this disk or in a bucket, can follow the run. After a restart the lines beyond the
checkpoint are dropped, since those steps are about to be taken again.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from data_shards.location import Location
from fsl.errors import StorageError

logger = logging.getLogger(__name__)
NAME = "metrics.jsonl"
BOARD = "tensorboard"
UPLOAD_SECONDS = 10.0
"""Object stores cannot append: there the whole file is sent, at most this often."""


class MetricLog:
    """Writes the metrics of one run below the train stage's directory.

    Args:
        out: the stage's directory.
        start: step the run starts at; what an earlier attempt wrote beyond it is dropped.
    """

    def __init__(self, out: Location, start: int = 0) -> None:
        self.place, self._board_place = out / NAME, out / BOARD
        kept = [line for line in read_metrics(out) if line["step"] <= start] if start else []
        self._lines = [json.dumps(line) for line in kept]
        self._remote = out.local is None
        self._sent = 0.0
        self._temporary = tempfile.TemporaryDirectory() if self._remote else None
        board = Path(self._temporary.name) if self._temporary else self._board_place.local
        assert board is not None
        self._board_directory = board
        if not start and not self._remote:
            self._board_place.delete()
        self._board = SummaryWriter(str(board), purge_step=start + 1 if start else None)
        self.place.write_text("".join(line + "\n" for line in self._lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Append one line: `kind` is train or validation, `step` the number of steps done."""
        for key, value in values.items():
            self._board.add_scalar(f"{kind}/{key}", value, step)
        self._append(
            kind, step, {key: v if math.isfinite(v) else None for key, v in values.items()}
        )

    def warn(self, step: int, message: str) -> None:
        """Append a warning in words; the driver shows it."""
        self._append("warning", step, {"message": message})

    def _append(self, kind: str, step: int, values: Mapping[str, float | str | None]) -> None:
        line = json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **values})
        self._lines.append(line)
        if not self._remote:
            assert self.place.local is not None
            with self.place.local.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        elif time.monotonic() - self._sent > UPLOAD_SECONDS:
            try:
                self.flush()
            except StorageError as error:  # a momentary fault: the next line sends this one too
                logger.warning("%s", error)

    def flush(self) -> None:
        """Make everything written so far visible to others."""
        self._board.flush()
        if self._remote:
            self.place.write_text("".join(line + "\n" for line in self._lines))
            self._board_place.upload(self._board_directory)
            self._sent = time.monotonic()

    def close(self) -> None:
        """Flush and end."""
        self.flush()
        self._board.close()
        if self._temporary:
            self._temporary.cleanup()


def read_metrics(stage_path: Location) -> list[dict[str, Any]]:
    """Return the lines of a train stage's metrics; a line cut short by a kill is left out."""
    place = stage_path / NAME
    return parse_lines(place.read_bytes())[0] if place.exists() else []


def parse_lines(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of all complete lines, and how many bytes those lines have."""
    complete = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:complete].splitlines() if line], complete
