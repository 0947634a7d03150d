"""Running out of memory: told apart from other faults, since it speaks against the settings."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fsl.errors import OutOfMemoryError
from pipelines.train_config import TrainConfig
from pipelines.training_data import batcher_of

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What torch and the GPU's libraries say where they have no exception of its own for it."""


SIZES = {True: ("max_support", "max_ways", "max_queries"), False: ("ways", "shots", "queries")}
"""Settings of a task's size, by whether tasks vary."""


@contextmanager
def memory_explained(config: TrainConfig) -> Iterator[None]:
    """Turn a training's lack of memory into one error, see `lack_explained`."""
    with lack_explained(lambda: _remedy(config)):
        yield


@contextmanager
def lack_explained(remedy: Callable[[], str]) -> Iterator[None]:
    """Turn a lack of memory in the `with` block into one error that names the remedy.

    What the block's frames held is let go, so that the process can do something smaller next.

    Raises:
        OutOfMemoryError: of a device or of the machine.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        torch.cuda.empty_cache()  # does nothing where there is no GPU
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OutOfMemoryError(f"out of memory: {lines[0]}; {remedy()}") from error


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def _remedy(config: TrainConfig) -> str:
    parts = f"set data.micro_batch (now {config.data.micro_batch}) so that a step is taken in parts"
    episodes = config.episodes
    if episodes is None:
        return f"lower data.batch_size ({config.data.batch_size} images), or {parts}"
    *most, last = (f"episodes.{name}" for name in SIZES[episodes.varies])
    smaller = f"lower {', '.join(most)} or {last}"
    one = 1 in (episodes.per_step, config.data.micro_batch)
    if one or episodes.varies or batcher_of(config).varies:
        return smaller  # tasks pass one by one already
    return f"lower episodes.per_step ({episodes.per_step} tasks), or {parts}, or {smaller}"
