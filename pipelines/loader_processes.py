"""Items of a data set in order, made ahead by loader processes; a user's errors arrive whole.

torch would send the traceback of the process instead of the one line that a user can act on.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

from fsl.errors import FewShotError, StorageError

T = TypeVar("T")
PRELOADED = "pipelines.loader"
"""Imported once, by the server that forks all loader processes."""

DEATH = re.compile(r"(DataLoader worker \(pid|Pin memory thread exited)")
"""How torch's own words about a process that died begin."""
CAUGHT = "in DataLoader worker process"
"""Said of an error that a living process sent."""


@dataclass(frozen=True)
class Mistake:
    """Stands for an item that could not be made."""

    error: FewShotError


class _Caught(Dataset[T | Mistake]):
    """The items of another data set, or what was wrong."""

    def __init__(self, items: Dataset[T]) -> None:
        self.items = items

    def __getitem__(self, number: int) -> T | Mistake:
        try:
            return self.items[number]
        except FewShotError as error:
            return Mistake(error)


def in_order(
    items: Dataset[T],
    numbers: range,
    processes: int,
    *,
    prefetch: int = 2,
    pin_memory: bool = False,
) -> Iterator[T]:
    """Yield the items of `numbers`; an item's FewShotError is raised here when its turn comes.

    Args:
        items: item by number.
        numbers: which.
        processes: make items ahead; 0 makes each here.
        prefetch: items that each process makes ahead.
        pin_memory: put tensors, and items that can do it, into page-locked memory.
    """
    processes = min(processes, len(numbers))
    if processes:
        multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])
    loader: DataLoader[T | Mistake] = DataLoader(
        _Caught(items),
        batch_size=None,
        sampler=numbers,
        num_workers=processes,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        # fork would copy the training process's threads and locks in whatever state they are
        multiprocessing_context="forkserver" if processes else None,
        prefetch_factor=prefetch if processes else None,
    )
    for item in _alive(loader) if processes else loader:
        if isinstance(item, Mistake):
            raise item.error
        yield item


def _alive(items: Iterable[T]) -> Iterator[T]:
    """Yield what loader processes make.

    Raises:
        StorageError: one of them died. It is worth another attempt on Ray, as a StageError is not.
    """
    try:
        yield from items
    except (RuntimeError, EOFError, ConnectionError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        if CAUGHT in words or (isinstance(error, RuntimeError) and not DEATH.match(words)):
            raise
        raise StorageError(
            f"a loader process died (killed, out of memory or of shared memory?): {words}; lower "
            "loader_workers, prefetch or the batch size, or enlarge /dev/shm, then run the same "
            "command again"
        ) from error


def _as_it_is(item: T) -> T:
    return item
