"""One Ray Train worker: runs the training loop, and leaves word when it fails.

Ray restarts the whole group after any failure. What a user has to mend (a damaged image, a loss
that is not finite, too large a batch) would fail again and again: such a failure is written below
the stage's directory, and the restarted group ends at once so that the driver can show it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint as RayCheckpoint
from ray.train.collective import broadcast_from_rank_zero

from data_shards.location import Location
from fsl.errors import FewShotError, StorageError
from pipelines.checkpoint import DIRECTORY
from pipelines.memory import memory_explained
from pipelines.ray_nodes import unseen
from pipelines.ray_watch import stop_asked
from pipelines.session import LocalSession, newest_checkpoint
from pipelines.trainer import Trainer, TrainSpec
from pipelines.watch import Report

FAILURES = "failures"
logger = logging.getLogger(__name__)


class RaySession(LocalSession):
    """A worker's connection to its Ray Train run.

    Ray is told the numbers, never of checkpoints: its own list of them would have to agree with
    what a local run, or a user, did to the directory in between.

    Args:
        out: the stage's directory.
        keep: checkpoints that stay, besides the last one.
        threads: of torch, where there is no GPU.
    """

    def __init__(self, out: Location, keep: int, threads: int) -> None:
        context = ray.train.get_context()
        super().__init__(
            out,
            keep,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=ray.train.torch.get_device(),
        )
        if self.device.type == "cpu":
            torch.set_num_threads(threads)

    @contextmanager
    def last_checkpoint(self) -> Iterator[Path | None]:
        """Yield the newest whole checkpoint, chosen by rank 0; downloaded once per node."""
        newest = newest_checkpoint(self.out) if self.rank == 0 else None
        name = broadcast_from_rank_zero(newest and newest.name)
        if name is None:
            yield None
            return
        place = self.out / DIRECTORY / name
        with RayCheckpoint(place.path, place.filesystem).as_directory() as directory:
            yield Path(directory)

    def save(self, directory: Path | None, name: str, metrics: Mapping[str, float]) -> None:
        """Keep the checkpoint and report its numbers; a collective of all ranks."""
        super().save(directory, name, metrics)
        ray.train.report(dict(metrics))

    def goes_on(self, report: Report | None) -> bool:
        """Look whether the driver has asked for the end."""
        del report
        return not stop_asked(self.out)


def run_worker(spec: TrainSpec, attempt: str) -> dict[str, float]:
    """Run one worker's part of a training run, in a process of Ray Train.

    Args:
        spec: the run.
        attempt: of the driver; a worker of an earlier one may still be ending.
    """
    if not spec.out.exists():
        raise unseen(spec.out, socket.gethostname())
    begun = time.time()
    if fatal_failure(spec.out, attempt) is not None:
        return {}
    config = spec.config
    session = RaySession(spec.out, config.checkpoint.keep, config.cluster.cpus_per_worker)
    try:
        with memory_explained(config):
            return Trainer(spec, session).fit()
    except Exception as error:
        _leave_word(spec.out, attempt, session.rank, begun, error)
        raise


def _leave_word(out: Location, attempt: str, rank: int, begun: float, error: Exception) -> None:
    mendable = isinstance(error, FewShotError)
    record = {
        "rank": rank,
        "begun": begun,
        "failed": time.time(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "fatal": mendable and not isinstance(error, StorageError),  # storage may come back
        "type": type(error).__name__,
        "message": str(error),
        "traceback": traceback.format_exc(),
    }
    (out / FAILURES / attempt / f"rank-{rank}.json").write_text(json.dumps(record, indent=1))


def read_failures(out: Location, attempt: str) -> list[dict[str, Any]]:
    """Return the failures of the attempt's last group of workers, in the order they happened."""
    place = out / FAILURES / attempt
    if not place.exists():
        return []
    records = []
    for item in (item for item in place.list() if not item.name.startswith(".")):
        try:
            records.append(json.loads(item.read_text()))
        except ValueError:  # cut short when its worker was killed: it tells nothing
            logger.warning("%s: not a whole record of a failure", item)
    last = max((record["begun"] for record in records), default=0.0)
    current = [record for record in records if record["failed"] >= last]
    return sorted(current, key=lambda record: float(record["failed"]))


def fatal_failure(out: Location, attempt: str) -> dict[str, Any] | None:
    """Return the first failure that a user has to mend, if there was one."""
    return next((record for record in read_failures(out, attempt) if record["fatal"]), None)
