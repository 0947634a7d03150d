"""A worker's connection to its run: rank, device, the last checkpoint, a place for new ones.

`pipelines.ray_session` has the one for Ray Train; the one here needs nothing but a directory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch

from data_shards.location import Location
from pipelines.checkpoint import DIRECTORY, SCORE, CheckpointInfo, find_checkpoints
from pipelines.watch import Report, Watcher


class Session(Protocol):
    """What the training loop needs of whoever started it."""

    rank: int
    world_size: int
    device: torch.device

    def last_checkpoint(self) -> AbstractContextManager[Path | None]:
        """Yield the local directory of the checkpoint to go on from, if there is one."""

    def save(self, directory: Path | None, name: str, metrics: Mapping[str, float]) -> None:
        """Keep a checkpoint; called by all ranks, of which only the first has a directory."""

    def goes_on(self, report: Report | None) -> bool:
        """Return whether a watched run goes on after a pause; the first rank alone is asked.

        Args:
            report: there when the pause was a validation.
        """


class LocalSession:
    """Training without Ray, in this process (or several that the caller has connected).

    Args:
        out: the stage's directory.
        keep: checkpoints that stay, besides the last one.
        rank: this process among `world_size`.
        world_size: number of processes; more than one needs a process group.
        device: where to compute.
        watcher: sees the validations and may end the run.
    """

    def __init__(
        self,
        out: Location,
        keep: int = 2,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        watcher: Watcher | None = None,
    ) -> None:
        self.out, self.keep, self.watcher = out, keep, watcher
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)

    @contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        """Yield the directory of the newest whole checkpoint."""
        place = newest_checkpoint(self.out)
        if place is None or place.local is not None:
            yield None if place is None else place.local
            return
        with tempfile.TemporaryDirectory(prefix="fewshot-") as folder:
            place.download(Path(folder))
            yield Path(folder)

    def save(self, directory: Path | None, name: str, metrics: Mapping[str, float]) -> None:
        """Copy the checkpoint into the stage's directory and drop what need not be kept."""
        del metrics
        if directory is None:
            return
        place = self.out / DIRECTORY / name
        place.delete()
        place.upload(directory)
        found = find_checkpoints(self.out)
        ranked = sorted(found, key=lambda key: _rank(found[key]))
        kept = {*ranked[-self.keep :], list(found)[-1]}
        for other in found:
            if other not in kept:
                (self.out / DIRECTORY / other).delete()

    def goes_on(self, report: Report | None) -> bool:
        """Ask the watcher."""
        return report is None or self.watcher is None or self.watcher(report)


def newest_checkpoint(out: Location) -> Location | None:
    """Return the place of the newest whole checkpoint of the stage in `out`."""
    found = list(find_checkpoints(out))
    return out / DIRECTORY / found[-1] if found else None


def _rank(info: CheckpointInfo) -> tuple[float, int]:
    """Return what grows with the worth: score, the earlier of equals; without one, later steps."""
    if SCORE in info.metrics:
        return info.metrics[SCORE], -info.step
    return -1.0, info.step
