"""Styles of drawing: what turns images of the same characters into several domains.

Letters in shapes: n images, z side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def pen(images: Floats, rng: np.random.Generator) -> Floats:
    """Return white lines on black, as drawn."""
    del rng
    return images


def ink(images: Floats, rng: np.random.Generator) -> Floats:
    """Return black lines on paper of a random light grey."""
    paper: Floats = rng.uniform(0.7, 1.0, (len(images), 1, 1)).astype(np.float32)
    done: Floats = paper * (1 - images)
    return done


def chalk(images: Floats, rng: np.random.Generator) -> Floats:
    """Return lines with holes on a grainy board."""
    grain = rng.random(images.shape, dtype=np.float32)
    board = 0.15 + 0.2 * rng.random(images.shape, dtype=np.float32)
    done: Floats = np.maximum(images * (grain > 0.35), board)
    return done


def outline(images: Floats, rng: np.random.Generator) -> Floats:
    """Return the edges of the lines."""
    del rng
    return _spread(images) - images


def shade(images: Floats, rng: np.random.Generator) -> Floats:
    """Return grey lines before a gradient of random direction."""
    count, side = len(images), images.shape[-1]
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    place = np.linspace(-1, 1, side)
    slope = np.cos(angle) * place[:, None] + np.sin(angle) * place
    ground = 0.5 + 0.3 * slope
    away = np.where(ground > 0.5, -0.45, 0.45)  # from the ground's grey
    done: Floats = (ground + away * images).astype(np.float32)
    return done


STYLES: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "pen": pen, "ink": ink, "chalk": chalk, "outline": outline, "shade": shade,
}  # fmt: skip


def styled(images: Pixels, style: str, rng: np.random.Generator) -> Pixels:
    """Return images in a style, white-on-black drawings (n, z, z) -> (n, z, z)."""
    ink_share: Floats = (images / 255).astype(np.float32)
    done = STYLES[style](ink_share, rng)
    return np.round(255 * done.clip(0, 1)).astype(np.uint8)


def _spread(images: Floats) -> Floats:
    """Return the maximum over the 3 x 3 neighbours of each pixel."""
    side = images.shape[-1]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    parts = [padded[:, i : i + side, j : j + side] for i in range(3) for j in range(3)]
    widest: Floats = np.maximum.reduce(parts)
    return widest
