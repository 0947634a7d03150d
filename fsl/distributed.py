"""What a method needs to know of other processes; everything is a no-op on one process.

Sums and gathered rows carry gradients: what the loss of any process asks of a value comes back
to the process that made it. The mean of the parameters' gradients over processes, which
DistributedDataParallel takes, is then the gradient of the mean of the processes' losses.
All processes must call these functions together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Gathered(NamedTuple):
    """The rows of all processes."""

    values: Tensor  # (N, ...), process after process
    start: int  # where this process's rows begin


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
    """Return the sum of `values` over processes, with gradient."""
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
    return Gathered(_Gather.apply(values, counts), sum(counts[: rank()]))


def row_counts(values: Tensor) -> list[int]:
    """Return the number of rows of each process; waits for the device."""
    if world_size() == 1:
        return [len(values)]
    own = torch.zeros(world_size(), dtype=torch.int64, device=values.device)
    own[rank()] = len(values)
    counts: list[int] = _summed(own).tolist()
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
