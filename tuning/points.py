"""Settings to try first, as the study has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsl.errors import ConfigError, did_you_mean
from tuning.candidate import Branch
from tuning.ranges import decoded, fitting


def point_params(branch: Branch, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return a point of a study file as parameters of the study.

    Raises:
        ConfigError: a key that is not searched, a value outside its range, or values that
            contradict each other.
    """
    known = {dimension.key: dimension for dimension in branch.dimensions}
    params: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for written, value in point.items():
        dimension = known.get(branch.searched.absolute(written))
        if dimension is None:
            short = [branch.searched.short(key) for key in known]
            near = did_you_mean(written, short)
            raise ConfigError(f"{written} is not searched{near}; searched: {', '.join(short)}")
        try:
            params[dimension.name] = fitting(dimension.domain, value)
        except ValueError as error:
            raise ConfigError(f"{written}: {error}") from None
        values[dimension.key] = decoded(dimension.domain, params[dimension.name])
    branch.recipe(values)
    return params
