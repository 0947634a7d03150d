"""Student's t against closed forms and numerical integration."""

import math

import pytest
import torch

from fsl.errors import ConfigError
from fsl.student import student_p, student_t

POINTS = [0.0, 1e-3, 0.3, 1.0, 2.5, 8.0, 40.0]


@pytest.mark.parametrize("t", POINTS)
def test_one_and_two_degrees_have_closed_forms(t: float) -> None:
    assert student_p(t, 1) == pytest.approx(2 / math.pi * math.atan2(1, t), rel=1e-12)
    root = math.sqrt(2 + t * t)
    assert student_p(-t, 2) == pytest.approx(2 / (root * (root + t)), rel=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.5, 1.96, 6.0])
def test_many_degrees_are_normal(t: float) -> None:
    assert student_p(t, 10**7) == pytest.approx(math.erfc(t / math.sqrt(2)), rel=1e-5)


@pytest.mark.parametrize("freedom", [3, 19, 82.5, 1999])
@pytest.mark.parametrize("t", POINTS)
def test_the_tail_is_the_integral_of_the_density(t: float, freedom: float) -> None:
    # with T = sqrt(n) tan(angle) the density is proportional to cos(angle) ** (n - 1)
    start = math.atan(t / math.sqrt(freedom))
    whole, tail = (
        torch.trapezoid(angles.cos() ** (freedom - 1), angles)
        for angles in (
            torch.linspace(low, math.pi / 2, 400_001, dtype=torch.float64) for low in (0.0, start)
        )
    )
    if tail > 0:
        assert student_p(t, freedom) == pytest.approx(float(tail / whole), rel=1e-6)


def test_an_infinite_t_is_impossible() -> None:
    assert student_p(math.inf, 5) == 0


@pytest.mark.parametrize("freedom", [1, 4, 30, 1999])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9999])
def test_the_quantile_inverts_the_tail(freedom: int, confidence: float) -> None:
    t = student_t(freedom, confidence)
    assert student_p(t, freedom) == pytest.approx(1 - confidence, rel=1e-9)


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 degree of freedom, got 0"):
        student_t(0)
    with pytest.raises(ConfigError, match="confidence must lie between 0 and 1, got 95"):
        student_t(5, 95)
