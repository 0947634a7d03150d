"""Student's t distribution without scipy: tail probabilities and quantiles."""

from __future__ import annotations

import math
from functools import lru_cache

from fsl.errors import ConfigError

TERMS = 10_000
"""Limit of the continued fraction; a million degrees of freedom need under a thousand."""


def student_p(t: float, freedom: float) -> float:
    """Probability that |T| exceeds |t|; relative error below 1e-8, also far out."""
    if not freedom >= 1:
        raise ConfigError(f"a t test needs at least 1 degree of freedom, got {freedom}")
    if math.isinf(t):
        return 0.0
    square = t * t
    inside = freedom / (freedom + square)
    return _beta_share(inside, square / (freedom + square), freedom / 2, 0.5)


@lru_cache(maxsize=256)
def student_t(freedom: float, confidence: float = 0.95) -> float:
    """The t that |T| exceeds with probability 1 - confidence: 12.71 for 1 degree, 1.96 for many."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence}")
    miss, low, high = 1 - confidence, 0.0, 1.0
    while student_p(high, freedom) > miss:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, freedom) > miss else (low, middle)
    return (low + high) / 2


def _beta_share(x: float, rest: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b); `rest` is 1 - x without cancellation."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(rest, x, b, a)
    if x <= 0:
        return 0.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log(rest)
    return math.exp(log_front) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    tiny = 1e-300
    upper, lower = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    result = lower
    for m in range(1, TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            lower = 1 / _away(1 + term * lower, tiny)
            upper = _away(1 + term / upper, tiny)
            result *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    return result


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
