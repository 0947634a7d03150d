"""Watching train stages from outside: a report at each validation, and a word that ends them.

Whoever searches settings runs a pipeline inside `watching(...)`. A training that is told to stop
ends at a checkpoint, with its processes gone and its locks released, and goes on from there when
the stage runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

COLLAPSED = "collapsed"
"""Among a report's metrics (as 1.0) once the method has called itself collapsed for long."""


@dataclass(frozen=True)
class Report:
    """Where a training run stands after a validation.

    Attributes:
        label: the train stage's name in the recipe.
        step: optimizer steps done.
        total_steps: optimizer steps of the whole run.
        epoch: passes through the data done, or their equal for tasks.
        metrics: the validation's numbers (`val_accuracy` from 0 to 1, `val_half_width`), the
            averages of the last line of training metrics, and `collapsed`.
    """

    label: str
    step: int
    total_steps: int
    epoch: float
    metrics: Mapping[str, float] = field(default_factory=dict)


Watcher = Callable[[Report], bool]
"""Called after each validation; False ends the training. It may be called from a thread."""


class TrainingStopped(Exception):
    """A watcher ended a training run. Not a fault: running the stage again continues it."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Let `watcher` see the validations of all train stages that run in the `with` block.

    A training that resumes reports what it newly validates; a validation may be reported twice.
    When the watcher returns False, or raises, the training ends, and `TrainingStopped`, or what
    the watcher raised, comes out of `run_pipeline`. With `launcher: local` the training waits
    while the watcher thinks; on Ray it goes on meanwhile.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def current_watcher() -> Watcher | None:
    """Return the watcher of the `with watching(...)` block around this call, if there is one."""
    return _watcher.get()


def stopped(label: str, step: int, total_steps: int) -> TrainingStopped:
    """Return the exception for a training that ended at `step`."""
    return TrainingStopped(f"training of {label!r} was stopped at step {step} of {total_steps}")
