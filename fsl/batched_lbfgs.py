"""Limited-memory BFGS on many smooth convex problems at once (Liu and Nocedal, 1989).

Each problem has its own step length and stops by itself; those that are done leave the batch.

Letters: E problems, n unknowns.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from fsl.errors import ConfigError

MEMORY = 5
SUFFICIENT = 1e-4
ROUNDING = 1e-14
HALVINGS = 40

P = TypeVar("P", bound="Objective")


class Objective(Protocol):
    """E functions of n unknowns, scaled so that second derivatives are about 1 at the start."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (E,) and gradients (E, n) at points (E, n)."""

    def select(self: P, kept: Tensor) -> P:
        """Return only the functions with the given numbers (m,)."""


class _Step(NamedTuple):
    """A past step and what it changed in the gradient."""

    moved: Tensor  # (E, n)
    change: Tensor  # (E, n)
    weight: Tensor  # (E,) 1 / <moved, change>; 0 where that carries no information


def minimise(
    objective: Objective, start: Tensor, *, tolerance: float, max_iterations: int, advice: str
) -> Tensor:
    """Return the minima (E, n): no component of a gradient is above `tolerance` there.

    Raises:
        ConfigError: some problem needs more than `max_iterations`; ends with `advice`.
    """
    result = start.clone()
    numbers = torch.arange(len(start), device=start.device)
    x, history = start, list[_Step]()
    value, gradient = objective(x)
    for _ in range(max_iterations):
        active = gradient.abs().amax(-1) > tolerance
        # leaving costs a copy of everything, so wait until a quarter is done
        left = int(active.sum())
        if left <= 0.75 * len(active):
            result[numbers] = x
            kept = active.nonzero()[:, 0]
            if left == 0:
                return result
            numbers, x, value, gradient = numbers[kept], x[kept], value[kept], gradient[kept]
            history = [_Step(*(part[kept] for part in step)) for step in history]
            objective = objective.select(kept)
        direction = _direction(gradient, history)
        there, value, after = _search(objective, x, value, gradient, direction)
        history = [*history[1 - MEMORY :], _step(there - x, after - gradient)]
        x, gradient = there, after
    raise ConfigError(
        f"{int((gradient.abs().amax(-1) > tolerance).sum())} of {len(start)} problems have not "
        f"converged after {max_iterations} iterations; {advice}"
    )


def _direction(gradient: Tensor, history: list[_Step]) -> Tensor:
    """Minus the approximate inverse Hessian times the gradient, (E, n)."""
    if not history:
        return -gradient
    direction, shares = -gradient, []
    for step in reversed(history):
        share = step.weight * _dot(step.moved, direction)  # (E,)
        direction.addcmul_(step.change, share[:, None], value=-1)
        shares.append(share)
    last = history[-1]
    curvature = last.weight * _dot(last.change, last.change)
    direction /= torch.where(curvature > 0, curvature, 1.0)[:, None]
    for step, share in zip(history, reversed(shares), strict=True):
        back = step.weight * _dot(step.change, direction)
        direction.addcmul_(step.moved, (share - back)[:, None])
    return direction


def _search(
    objective: Objective, x: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Halve each problem's step until its value falls enough; point, value and gradient there."""
    slope = SUFFICIENT * _dot(gradient, direction)
    slack = ROUNDING * (1 + value.abs())
    length = torch.ones_like(value)
    for _ in range(HALVINGS):
        there = torch.addcmul(x, length[:, None], direction)
        now, after = objective(there)
        enough = now <= value + length * slope + slack
        if bool(enough.all()):
            break
        length = torch.where(enough, length, length / 2)
    return there, now, after


def _step(moved: Tensor, change: Tensor) -> _Step:
    product = _dot(moved, change)
    useful = product > 1e-20 * _dot(moved, moved).clamp_min(1e-280)
    return _Step(moved, change, torch.where(useful, 1 / product.clamp_min(1e-300), 0.0))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Product of each pair of rows, (E, n) twice -> (E,)."""
    product: Tensor = torch.linalg.vecdot(a, b)
    return product
