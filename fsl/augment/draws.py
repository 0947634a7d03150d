"""Uniform random numbers as a function of (seed, stream, position), for many seeds at once.

SplitMix64 (Steele, Lea, Flood; OOPSLA 2014) used as a counter-based generator: number i of a
seed is a hash of seed + i * golden, so any number can be had without those before it, and no
generator object is made per image.

Letters in shapes: B images, V views.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
PER_VIEW = 64
"""Numbers set aside for one view; a setting never moves the numbers of another."""


class Stream(IntEnum):
    """Independent sequences of one seed."""

    GLOBAL_VIEWS = 1
    LOCAL_VIEWS = 2
    MASKS = 3
    TURNS = 4
    NOISE = 5
    CHANGES = 6


class Slot(IntEnum):
    """Which number of a view decides what."""

    AREA = 0  # ten attempts
    ASPECT = 10  # ten attempts
    TOP = 20
    LEFT = 21
    FLIP = 22
    JITTER = 23
    FACTORS = 24  # brightness, contrast, saturation, hue
    ORDER = 28  # their order
    GREY = 32
    BLUR = 33
    RADIUS = 34
    SOLARISE = 35
    ROTATION = 36
    SHEAR = 37  # two axes
    SHIFT = 39  # two axes
    STRETCH = 41  # two axes
    STROKE = 43
    ERASE = 44  # whether, area, aspect, top, left


def as_seeds(seeds: Sequence[int] | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return seeds as uint64 (B,)."""
    return np.asarray(seeds, dtype=np.uint64).reshape(-1)


def hashed(
    seeds: NDArray[np.uint64], stream: int, positions: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Return 64 random bits for every seed and position of a stream, (B,), (P,) -> (B, P)."""
    offset = np.array([stream], dtype=np.uint64) * _FIRST
    start = _mix(_mix(seeds) ^ offset)
    return _mix(start[:, None] + (positions[None, :] + np.uint64(1)) * _GOLDEN)


def uniforms(seeds: NDArray[np.uint64], stream: int, views: int) -> NDArray[np.float64]:
    """Return numbers in [0, 1) for every view of every seed, (B,) -> (B, V, PER_VIEW)."""
    bits = hashed(seeds, stream, np.arange(views * PER_VIEW, dtype=np.uint64))
    numbers = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers.reshape(len(seeds), views, PER_VIEW)


def derived_seeds(seeds: NDArray[np.uint64], stream: int, count: int) -> NDArray[np.uint64]:
    """Return `count` further 63-bit seeds of every seed, (B,) -> (B, count)."""
    return hashed(seeds, stream, np.arange(count, dtype=np.uint64)) >> np.uint64(1)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))
