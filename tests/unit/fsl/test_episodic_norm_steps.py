"""Running averages of episodic batch norm move once per step, however its tasks are shared out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fsl.distributed import rank, standing_in
from fsl.modules.episodic_norm import EpisodicBatchNorm2d, begin_step, episodic
from tests.unit.fsl.test_distributed import forks, in_two_processes

SUPPORT, CHANNELS = 4, 5
IDLE = (0,)
"""A task passed without counting."""


def support(task: int) -> Tensor:
    generator = torch.Generator().manual_seed(task)
    return (1 + task) * torch.randn(SUPPORT, CHANNELS, 3, 4, generator=generator) + task


def averages(batches: Sequence[Sequence[int]], steps: int = 1) -> dict[str, Tensor]:
    """What steps leave whose batches hold the supports of these tasks."""
    layer = EpisodicBatchNorm2d(CHANNELS)
    for _ in range(steps):
        begin_step(layer)
        for tasks in batches:
            with ExitStack() as contexts:
                if tasks == IDLE:
                    contexts.enter_context(standing_in())
                contexts.enter_context(episodic(layer, len(tasks), SUPPORT))
                layer(torch.cat([support(task) for task in tasks]))
    return {"mean": layer.running_mean, "variance": layer.running_var}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "batches",
    [[[0], [1], [2]], [[0, 1], [2]], [[2], [1, 0]], [IDLE, [0], [1], [2]], [[0, 1, 2], IDLE]],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 3])
def test_batches_of_a_step_move_them_like_one(batches: Sequence[Sequence[int]], steps: int) -> None:
    same(averages(batches, steps), averages([[0, 1, 2]], steps))


def test_another_step_moves_them_again() -> None:
    one, two = averages([[0, 1]], 1)["mean"], averages([[0, 1]], 2)["mean"]
    torch.testing.assert_close(two, 1.9 * one)


SHARES = {
    "one by one": ([[0], [1]], [[2], IDLE]),
    "unequal": ([[0, 1], IDLE], [[2], IDLE]),
    "one has none": ([[0], [1, 2]], [IDLE, IDLE]),
}


def own_share(shares: tuple[Sequence[Sequence[int]], ...]) -> dict[str, Tensor]:
    return averages(shares[rank()], 2)


@forks
@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES)
def test_two_processes_move_them_like_one(
    shares: tuple[Sequence[Sequence[int]], ...], tmp_path: Path
) -> None:
    expected = averages([[0, 1, 2]], 2)
    for found in in_two_processes(partial(own_share, shares), tmp_path):
        same(found, expected)
