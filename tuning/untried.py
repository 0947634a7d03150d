"""Combinations of a finite space that no trial has had."""

from __future__ import annotations

import itertools
import random
from collections.abc import Container, Iterator
from typing import Any

from fsl.search_space import Choice, Domain, IntRange
from tuning.outcome import identity
from tuning.ranges import encoded
from tuning.space import RECIPE, Space

LISTED = 20_000
"""Larger spaces count as endless: random settings are new in them."""


class Endless(Exception):
    """The space has numbers with decimals, or too many combinations to list."""


def untried(space: Space, tried: Container[str], seed: object) -> dict[str, Any] | None:
    """Return a random combination that was not tried, as parameters; None when all were.

    Args:
        space: what is searched.
        tried: identities of parameters.
        seed: of the random choice.

    Raises:
        Endless: they cannot be listed.
    """
    left = [params for params in combinations(space) if identity(params) not in tried]
    return random.Random(str(seed)).choice(left) if left else None


def combinations(space: Space) -> Iterator[dict[str, Any]]:
    """Yield the parameters of all trials that there can be; raises Endless."""
    count = 0
    for label, branch in space.branches.items():
        names = [dimension.name for dimension in branch.dimensions]
        values = [values_of(dimension.domain) for dimension in branch.dimensions]
        picked = {RECIPE: label} if len(space.branches) > 1 else {}
        for combination in itertools.product(*values):
            count += 1
            if count > LISTED:
                raise Endless
            yield {**picked, **dict(zip(names, combination, strict=True))}


def values_of(domain: Domain) -> list[Any]:
    """Return all values of a range, as they stand in the study; raises Endless."""
    if isinstance(domain, Choice):
        return [encoded(option) for option in domain.options]
    if isinstance(domain, IntRange):
        values = range(domain.low, domain.high + 1, domain.step)
        if len(values) <= LISTED:
            return list(values)
    elif domain.low == domain.high:
        return [domain.low]
    raise Endless
