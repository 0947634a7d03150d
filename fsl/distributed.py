"""What a method needs to know of other processes; everything is a no-op on one process.

Sums and gathered rows carry gradients: what the loss of any process asks of a value comes back
to the process that made it. The mean of the parameters' gradients over processes, which
DistributedDataParallel takes, is then the gradient of the mean of the processes' losses.
All processes must call these functions together.

A process without images of its own in some batch computes something all the same, so that no other
waits for it; what it does inside `standing_in` does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Gathered(NamedTuple):
    """The rows of all processes."""

    values: Tensor  # (N, ...), process after process
    start: int  # where this process's rows begin; N if they are not among them


class _Presence:
    real = True


_presence = _Presence()


@contextmanager
def standing_in() -> Iterator[None]:
    """Let what this process computes inside count for nothing in other processes.

    It receives sums and gathered rows, and adds none of its own. Its loss must weigh nothing, and
    backward must run inside, too.
    """
    before, _presence.real = _presence.real, False
    try:
        yield
    finally:
        _presence.real = before


def stands_in() -> bool:
    """Return whether what this process computes counts for nothing."""
    return not _presence.real


def world_size() -> int:
    """Return the number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_reduce_mean(values: Tensor) -> Tensor:
    """Return the mean of `values` over processes, without gradient; the input is left alone."""
    values = values.detach()
    return values if world_size() == 1 else _summed(values) / world_size()


def all_reduce_sum(values: Tensor) -> Tensor:
    """Return the sum of `values` over processes, with gradient.

    It is 0 where all of them are `standing_in`.
    """
    if stands_in():
        values = values * 0
    if world_size() == 1:
        return values
    total: Tensor = _Sum.apply(values)
    return total


def gather_rows(values: Tensor, counts: Sequence[int] | None = None) -> Gathered:
    """Return the rows (n, ...) of all processes, with gradient.

    Args:
        values: this process's.
        counts: n of each process where known, see `row_counts`; else they are asked for.
    """
    if world_size() == 1:
        return Gathered(values, 0)
    if counts is None:
        counts = row_counts(values)
    own = counts[rank()]
    gathered = _Gather.apply(values[:own], counts)
    return Gathered(gathered, sum(counts[: rank()]) if own else len(gathered))


def row_counts(values: Tensor) -> list[int]:
    """Return how many rows each process gives; waits for the device.

    None where it is `standing_in`, unless all are: there is always a row to compare with.
    """
    if world_size() == 1:
        return [len(values)]
    own = torch.zeros(2, world_size(), dtype=torch.int64, device=values.device)
    own[0, rank()] = 0 if stands_in() else len(values)
    own[1, rank()] = len(values)
    real, everything = _summed(own).tolist()
    counts: list[int] = real if any(real) else everything
    return counts


@torch.no_grad()
def take_buffers_of_first_(module: nn.Module) -> None:
    """Give `module` the floating-point buffers, such as running averages, of process 0."""
    if world_size() > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.broadcast(buffer, 0)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: Sequence[int]) -> Tensor:
        start = sum(counts[: rank()])
        ctx.rows = slice(start, start + len(values))
        padded = values.new_zeros((max(counts), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _summed(grad)[ctx.rows], None


def _summed(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
