"""Betting: the wealth is a fair game under the hypothesis, and grows when it is wrong."""

import math

import pytest
import torch
from torch import Tensor

from fsl.confidence_sequences import bet, betting_lower_bound, start_wealth
from fsl.errors import ConfigError


def skewed(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Mean 0 in [-1, 1]: rarely -0.9, mostly +0.1."""
    rare = torch.rand(shape, generator=generator) < 0.1
    return torch.where(rare, -0.9, 0.1).double()


def slow_log_wealth(values: list[float], mean: float) -> list[float]:
    """The same bets, one observation after the other."""
    result, log, total, squares = [], 0.0, 0.0, 0.01
    for i, value in enumerate(values):
        centre, variance = total / (i + 1), squares / (i + 1)
        edge = centre - mean
        stake = min(max(0.0, edge / (variance + edge**2)), 0.9 / (1 + mean))
        log += math.log1p(stake * (value - mean))
        result.append(log)
        total += value
        squares += (value - total / (i + 2)) ** 2
    return result


@pytest.mark.parametrize("mean", [0.0, -0.4, 0.3])
def test_wealth_is_that_of_bets_one_by_one(mean: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = 2 * torch.rand(3, 50, generator=generator, dtype=torch.float64) - 1
    _, logs = bet(start_wealth(3), values, mean)
    for row, found in zip(values, logs, strict=True):
        assert found.tolist() == pytest.approx(slow_log_wealth(row.tolist(), mean))


def test_betting_in_pieces_is_betting_at_once() -> None:
    values = skewed((4, 60), torch.Generator().manual_seed(0))
    whole, logs = bet(start_wealth(4), values)
    state, first = bet(start_wealth(4), values[:, :17])
    state, second = bet(state, values[:, 17:])
    torch.testing.assert_close(torch.cat([first, second], 1), logs)
    torch.testing.assert_close(state, whole)


def test_a_true_hypothesis_is_rarely_refuted_at_any_time() -> None:
    values = skewed((4000, 500), torch.Generator().manual_seed(0))
    _, logs = bet(start_wealth(4000), values)
    refuted = (logs.amax(1) >= math.log(1 / 0.1)).double().mean()
    assert 0.05 < refuted <= 0.1
    assert float(logs[:, :20].exp().mean()) == pytest.approx(1, abs=0.05)  # a fair game


def test_one_look_at_the_usual_bound_after_each_observation_would_be_wrong() -> None:
    values = skewed((500, 500), torch.Generator().manual_seed(0))
    seen = torch.arange(1, 501)
    means = values.cumsum(1) / seen
    errors = (values.square().cumsum(1) / seen - means.square()).clamp_min(1e-12).sqrt()
    z = means / (errors / seen.sqrt())
    assert (z[:, 30:].amax(1) > 1.645).double().mean() > 0.25


def test_a_wrong_hypothesis_is_refuted_soon() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (0.05 + 0.1 * torch.randn(50, 400, generator=generator)).clamp(-1, 1)
    _, logs = bet(start_wealth(50), values)
    first = (logs < math.log(100)).sum(1)  # observations until the wealth is 100
    assert first.double().mean() < 150


def test_lower_bounds_hold_at_all_times_and_come_near_the_mean() -> None:
    values = skewed((1000, 400), torch.Generator().manual_seed(1)) + 0.05
    bounds = betting_lower_bound(values, 0.1)
    assert (bounds > 0.05).double().mean() <= 0.1
    assert bounds.median() > -0.05


def test_alpha_is_a_probability() -> None:
    with pytest.raises(ConfigError, match="alpha must lie between 0 and 1, got 5"):
        betting_lower_bound(torch.zeros(1, 3), 5)
