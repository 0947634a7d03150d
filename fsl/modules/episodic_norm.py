"""Episodic batch normalisation (CrossTransformers; Doersch, Gupta, Zisserman; NeurIPS 2020).

The support images of a task are normalised by their own moments, its queries by the same moments,
layer by layer: a query's features depend on no other query, and the gradient of a query's loss
also flows through the moments into the support. Running averages are made of support moments
only, and move once per step towards the mean over the step's tasks, however these are shared out
to processes and batches (`begin_step`); evaluation mode uses them for all images.

A layer cannot see which rows are support; `episodic` tells all layers under a module:

    with episodic(backbone, tasks=T, support=S):
        features = backbone(images)  # T*S support rows, task by task, then T*Q query rows

Letters in shapes: T tasks, S support images, Q queries, n = T*(S + Q) rows, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.distributed import all_reduce_sum

Norm = Literal["batch", "episodic"]
"""Batch norm over all images of a batch, or by the support of each task."""


class EpisodeRows(NamedTuple):
    """Layout of a batch: support rows task by task, then query rows task by task."""

    tasks: int
    support: int  # rows per task, in this process
    across_ranks: bool


class Averages(NamedTuple):
    """What running averages are made of in a step of several batches."""

    mean: Tensor  # (C,) before the step
    variance: Tensor  # (C,)
    sums: Tensor  # (2 C + 1,) means, variances and number of the tasks so far


class EpisodicBatchNorm2d(nn.BatchNorm2d):
    """Batch norm by the support's moments inside of `episodic`, over the whole batch outside.

    The running variance is the average of *biased* variances, as in the original. In other
    respects, outside of `episodic`, it is `nn.BatchNorm2d`. A layer that was never told
    `begin_step` takes every batch for a step.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float
    rows: EpisodeRows | None = None
    step: Averages | None = None

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps, momentum)

    def begin_step(self) -> None:
        """Let the batches until the next call move the running averages together, once."""
        self.step = self._averages()

    def forward(self, input: Tensor) -> Tensor:
        """Return normalised maps, (n, C, H, W) -> (n, C, H, W)."""
        if not self.training:
            return super().forward(input)
        if self.rows is None:
            return self._by_whole_batch(input)
        return self._by_support(input, self.rows)

    def _by_whole_batch(self, x: Tensor) -> Tensor:
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        count = x.numel() // x.shape[1]
        self._average(mean, variance * ((count - 1) / count))  # torch's is the unbiased one
        return y

    def _by_support(self, x: Tensor, rows: EpisodeRows) -> Tensor:
        queries = rows_of_queries(len(x), rows)
        values = x.float()
        mean, variance = support_moments(values[: rows.tasks * rows.support], rows)  # (T, C)
        self._average_tasks(mean.detach(), variance.detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)  # (T, C)
        shift = self.bias - mean * scale

        def per_row(of_task: Tensor) -> Tensor:  # (T, C) -> (n, C, 1, 1)
            parts = (of_task.repeat_interleave(k, 0) for k in (rows.support, queries))
            return torch.cat([*parts])[..., None, None]

        return torch.addcmul(per_row(shift), values, per_row(scale)).to(x.dtype)

    def _average_tasks(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running averages by moments (T, C); all tasks of a step weigh the same."""
        before = self.step or self._averages()
        own = F.pad(torch.cat([mean, variance], 1).sum(0), (0, 1), value=len(mean))  # (2 C + 1,)
        sums = before.sums + all_reduce_sum(own)
        means = (sums[:-1] / sums[-1].clamp_min(1)).view(2, -1)  # (2, C)
        weight = self.momentum * (sums[-1] > 0)  # no task yet where all processes only stand in
        self.running_mean.copy_(before.mean.lerp(means[0], weight))
        self.running_var.copy_(before.variance.lerp(means[1], weight))
        self.num_batches_tracked += 1
        if self.step is not None:
            self.step = before._replace(sums=sums)

    def _averages(self) -> Averages:
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        return Averages(mean, variance, mean.new_zeros(2 * len(mean) + 1))

    def _average(self, mean: Tensor, variance: Tensor) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


@contextmanager
def episodic(
    module: nn.Module, tasks: int, support: int, *, across_ranks: bool = False
) -> Iterator[None]:
    """Tell all `EpisodicBatchNorm2d` under `module` how the rows of a batch are laid out.

    Rows are the T*S support images, task by task, then the T*Q queries, task by task; moments are
    those of each task by itself. Without such layers, and in evaluation mode, nothing changes.
    What is recomputed in the backward pass (activation checkpoints) must run inside, too.

    Args:
        module: the backbone, or anything around it.
        tasks: T.
        support: S, support images of each task in this process.
        across_ranks: the support images of every task are spread over the processes, which then
            share their moments, with gradients. By default a task is whole in one process and
            its moments are its own. Either way all processes run as many batches, since running
            averages are over all tasks; one without a task runs `fsl.distributed.standing_in`.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, EpisodicBatchNorm2d)]
    before = [layer.rows for layer in layers]
    try:
        for layer in layers:
            layer.rows = EpisodeRows(tasks, support, across_ranks)
        yield
    finally:
        for layer, rows in zip(layers, before, strict=True):
            layer.rows = rows


def begin_step(module: nn.Module) -> None:
    """Tell all `EpisodicBatchNorm2d` under `module` that a step begins."""
    for layer in module.modules():
        if isinstance(layer, EpisodicBatchNorm2d):
            layer.begin_step()


def support_moments(support: Tensor, rows: EpisodeRows) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, each (T, C), of support maps (T*S, C, H, W)."""
    maps = support.view(rows.tasks, rows.support, *support.shape[1:])  # (T, S, C, H, W)
    over = (1, 3, 4)
    count = maps[0, :, 0].numel()
    sums = F.pad(maps.sum(over), (0, 1), value=count)  # (T, C + 1)
    if rows.across_ranks:
        sums = all_reduce_sum(sums)
    mean, total = sums[:, :-1] / sums[:, -1:], sums[:, -1:]
    # The variance does not change with the point it is taken about: no gradient through it.
    centre = mean.detach()[:, None, :, None, None]
    squares = (maps - centre).square().sum(over)  # (T, C)
    if rows.across_ranks:
        squares = all_reduce_sum(squares)
    return mean, squares / total


def rows_of_queries(rows: int, layout: EpisodeRows) -> int:
    """Return the queries per task in a batch of `rows` images."""
    queries, rest = divmod(rows - layout.tasks * layout.support, layout.tasks)
    if queries < 0 or rest:
        raise ValueError(
            f"a batch of {rows} images is not {layout.tasks} tasks of {layout.support} support "
            "images each and as many queries for each; pass `episodic` what the batch holds"
        )
    return queries


def norm_layer(norm: Norm, channels: int) -> nn.BatchNorm2d:
    """Return a fresh normalisation layer."""
    return EpisodicBatchNorm2d(channels) if norm == "episodic" else nn.BatchNorm2d(channels)
