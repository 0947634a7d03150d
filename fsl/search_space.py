"""Search ranges as metadata on the field they concern; `search_space` collects them.

    lambda_patch: Annotated[float, Field(ge=0), Uniform(0.0, 2.0)] = 1.0

The ranges know nothing about Optuna or Ray: `tuning.space` translates them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fsl.config import field_metadata


@dataclass(frozen=True)
class Uniform:
    """A float in [low, high]; `log` samples its logarithm uniformly."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class IntRange:
    """An integer in [low, high] in steps of `step`; `log` samples its logarithm uniformly."""

    low: int
    high: int
    step: int = 1
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of `options`."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        object.__setattr__(self, "options", options)


Domain: TypeAlias = Uniform | IntRange | Choice


def search_space(config: BaseModel) -> dict[str, Domain]:
    """Return dotted key -> range for every field of `config`, and of its sections, that has one."""
    found: dict[str, Domain] = {}
    for name, field in type(config).model_fields.items():
        domain = domain_of(field)
        if domain is not None:
            found[name] = domain
        found |= _inside(name, getattr(config, name))
    return found


def domain_of(field: FieldInfo) -> Domain | None:
    """Return the range on a field, also on one that may be null instead, or None."""
    return next((item for item in field_metadata(field) if isinstance(item, Domain)), None)


def _inside(name: str, value: Any) -> dict[str, Domain]:
    if isinstance(value, BaseModel):
        return {f"{name}.{key}": domain for key, domain in search_space(value).items()}
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)  # type: ignore[assignment]
    else:
        return {}
    found: dict[str, Domain] = {}
    for key, item in parts:
        found |= _inside(f"{name}.{key}", item)
    return found
