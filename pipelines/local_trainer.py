"""A training run in this very process, without Ray: one worker, starts at once.

For small models on one machine; checkpoints, metrics and resuming are those of a run on Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fsl.errors import StageError
from pipelines.follow import Follower
from pipelines.memory import memory_explained
from pipelines.progress import ProgressLine
from pipelines.session import LocalSession
from pipelines.trainer import Trainer, TrainSpec
from pipelines.watch import current_watcher, stopped


def run_here(spec: TrainSpec, total_steps: int) -> None:
    """Train to the end, from the stage's last checkpoint if it has one.

    Raises:
        OutOfMemoryError: the device is too small for the settings.
        StageError: there is no GPU, and the settings insist on one.
        TrainingStopped: the watcher around this call ended it.
    """
    cluster = spec.config.cluster
    usable = torch.cuda.is_available()
    if cluster.gpu is True and not usable:
        raise StageError("cluster.gpu: true, but this machine has no usable GPU; set auto or false")
    gpu = usable if cluster.gpu == "auto" else cluster.gpu
    session = LocalSession(
        spec.out,
        keep=spec.config.checkpoint.keep,
        device="cuda" if gpu else "cpu",
        watcher=current_watcher(),
    )
    with (
        _threads(cluster.cpus_per_worker),
        ProgressLine(spec.label, total_steps) as line,
        Follower(spec.out, line.show),
        memory_explained(spec.config),
    ):
        ended = _ended_early(spec, session)
    if ended is not None:
        raise stopped(spec.label, ended, total_steps)


def _ended_early(spec: TrainSpec, session: LocalSession) -> int | None:
    """Train; return the step where the run was told to end, if it was.

    The model lives no longer than this call: an exception would keep it alive with its traceback.
    """
    trainer = Trainer(spec, session)
    trainer.fit()
    return trainer.reached if trainer.stopped else None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
