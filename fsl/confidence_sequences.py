"""Tests and bounds that stay valid however often one looks, by betting.

Waudby-Smith and Ramdas (Estimating means of bounded random variables by betting, JRSS B 2024):
whoever bets on every observation that a mean is above m cannot expect to gain if it is not, so
wealth above 1/alpha at any time is evidence at level alpha (Ville's inequality). The bets follow
the mean and variance seen before: nothing is assumed about the distribution but its range, and
episodes need not be counted in advance.

Letters: C sequences, n observations of each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fsl.errors import ConfigError

LOWEST = -1.0
"""Smallest possible observation: a difference of two accuracies."""
CAUTION = 0.9
"""Largest share of the wealth that one observation can lose."""
PRIOR_VARIANCE = 0.01
"""Variance assumed before the first observation, with the weight of one."""


class Wealth(NamedTuple):
    """State of C bettors after `seen` observations each."""

    seen: int
    total: Tensor  # (C,) sum of the observations
    squares: Tensor  # (C,) sum of squared distances to the mean of their time
    log_wealth: Tensor  # (C,)


def start_wealth(sequences: int) -> Wealth:
    """Wealth 1 each, nothing seen."""
    zeros = torch.zeros(sequences, dtype=torch.float64)
    return Wealth(0, zeros, zeros + PRIOR_VARIANCE, zeros)


def bet(wealth: Wealth, values: Tensor, mean: float | Tensor = 0.0) -> tuple[Wealth, Tensor]:
    """Bet on each observation that the mean is above `mean`.

    Args:
        wealth: state before them.
        values: (C, n) observations, not below -1, in the order in which they came.
        mean: hypothesis above -1, a number or (C, 1).

    Returns:
        The state after them, and the logarithm of the wealth after each, (C, n).
    """
    values = values.double()
    number = wealth.seen + torch.arange(1, values.shape[1] + 1)  # (n,)
    totals = wealth.total[:, None] + values.cumsum(1)
    centres = totals / (number + 1)  # (C, n)
    squares = wealth.squares[:, None] + (values - centres).square().cumsum(1)
    # what is known before each observation: the columns move by one place
    centre = _shifted(wealth.total / (wealth.seen + 1), centres)
    variance = _shifted(wealth.squares, squares) / number
    edge = centre - mean
    largest = CAUTION / (torch.as_tensor(mean) - LOWEST)
    stake = (edge / (variance + edge.square())).clamp_min(0).minimum(largest)
    logs = wealth.log_wealth[:, None] + torch.log1p(stake * (values - mean)).cumsum(1)
    after = Wealth(int(number[-1]), totals[:, -1], squares[:, -1], logs[:, -1])
    return after, logs


def betting_lower_bound(values: Tensor, alpha: float) -> Tensor:
    """Lower confidence bounds (C,) for the means of (C, n), valid at every n at once.

    The largest mean against which the wealth has reached 1/alpha by now; -1 if there is none.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha must lie between 0 and 1, got {alpha}")
    low = torch.full((len(values), 1), LOWEST, dtype=torch.float64)
    high = torch.ones_like(low)
    for _ in range(20):
        middle = (low + high) / 2
        _, logs = bet(start_wealth(len(values)), values, middle)
        refuted = logs.amax(1, keepdim=True) >= -math.log(alpha)
        low, high = torch.where(refuted, middle, low), torch.where(refuted, high, middle)
    return low[:, 0]


def _shifted(first: Tensor, later: Tensor) -> Tensor:
    """Columns (C, n) moved right by one, with `first` (C,) in front."""
    return torch.cat([first[:, None], later[:, :-1]], 1)
