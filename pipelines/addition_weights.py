"""Weights of a method whose additions may be others than it was trained with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

PLACES = ("additions", "teacher_additions")
"""Where a method keeps its additions, and slow copies of them."""


def with_own_additions(
    saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], set[str]]:
    """Return saved tensors with those of other additions exchanged for the method's own.

    An addition is another one unless it was there before with tensors of equal shapes.

    Args:
        saved: what was saved, by name.
        wanted: the method's tensors.

    Returns:
        The tensors, and the names of the other additions, of the saved ones and of the method's.
    """
    before, now = _by_addition(saved), _by_addition(wanted)
    others = {
        name
        for name in before.keys() | now.keys()
        if _shapes(before.get(name, {})) != _shapes(now.get(name, {}))
    }
    tensors = dict(saved)
    for name in others:
        for key in before.get(name, {}):
            del tensors[key]
        tensors |= now.get(name, {})
    return tensors, others


def _by_addition(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each addition, and of slow copies of it, by its name."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        place, _, inside = key.partition(".")
        if place in PLACES:
            found.setdefault(inside.partition(".")[0], {})[key] = value
    return found


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in tensors.items()}
