"""Ranges of a study: as written in its file, as declared on a field, and as Optuna has them.

A choice that is no plain value (a pair, a mapping) is written as JSON in the study.
"""

from __future__ import annotations

import json
import random
from typing import Annotated, Any, Self

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, model_validator

from fsl.config import Section
from fsl.search_space import Choice, Domain, IntRange, Uniform

Number = int | float
LARGEST = 1e15


class RangeConfig(Section):
    """A range in a study file: `{low, high, log, step}` or `{choices: [...]}`."""

    low: Number | None = None
    """Smallest value."""
    high: Number | None = None
    """Largest value."""
    log: bool = False
    """Sample the logarithm uniformly."""
    step: Annotated[int, Field(ge=1)] | None = None
    """Distance of two values, for whole numbers."""
    choices: Annotated[list[Any], Field(min_length=1)] | None = None
    """The values themselves."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.choices is not None:
            others = [name for name in ("low", "high", "step") if getattr(self, name) is not None]
            if others or self.log:
                raise ValueError("choices stand alone; remove low, high, log and step")
            try:
                texts = [encoded(item) for item in self.choices]
                json.dumps(texts)
            except TypeError:
                raise ValueError(
                    "choices: a choice is a number, a text, true, false, null, or a list or "
                    "mapping of these; write dates in quotes"
                ) from None
            if any(texts.count(text) > 1 for text in texts):
                raise ValueError("name each choice once")
            return self
        if self.low is None or self.high is None:
            raise ValueError("a range is {low: ..., high: ...} or {choices: [...]}")
        if not -LARGEST <= self.low <= self.high <= LARGEST and self.low <= self.high:
            raise ValueError(f"low and high: numbers up to {LARGEST:g}, with either sign")
        return self

    def domain(self, whole: bool) -> Domain:
        """Return the range for a field that holds whole numbers, or any.

        Raises:
            ValueError: it is no range of such numbers; the message says why.
        """
        if self.choices is not None:
            return Choice(*self.choices)
        assert self.low is not None
        assert self.high is not None
        if not whole:
            if self.step is not None:
                raise ValueError("step: the setting is not a whole number; use choices")
            return Uniform(float(self.low), float(self.high), self.log)
        for name, value in (("low", self.low), ("high", self.high)):
            if value != int(value):
                raise ValueError(f"{name}: {value} is not a whole number, as the setting is")
        return IntRange(int(self.low), int(self.high), self.step or 1, self.log)


def distribution(domain: Domain) -> BaseDistribution:
    """Return the range as Optuna has it.

    Raises:
        ValueError: it is empty, or contradicts itself; the message says why.
    """
    if isinstance(domain, Choice):
        if not domain.options:
            raise ValueError("choices: there are none")
        return CategoricalDistribution([encoded(option) for option in domain.options])
    if domain.low > domain.high:
        raise ValueError(f"low: {domain.low} is above high: {domain.high}")
    if domain.log and domain.low <= 0:
        raise ValueError(f"low: {domain.low} must be above 0 with log: true")
    if isinstance(domain, Uniform):
        return FloatDistribution(domain.low, domain.high, log=domain.log)
    if domain.log and domain.step != 1:
        raise ValueError("step and log exclude each other")
    if (domain.high - domain.low) % domain.step:
        last = domain.high - (domain.high - domain.low) % domain.step
        raise ValueError(
            f"high: {domain.high} is not reached from {domain.low} in steps of {domain.step}; "
            f"write {last}"
        )
    return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def suggest_one(trial: optuna.Trial, name: str, domain: Domain) -> None:
    """Draw a value in a trial."""
    if isinstance(domain, Choice):
        trial.suggest_categorical(name, [encoded(option) for option in domain.options])
    elif isinstance(domain, IntRange):
        trial.suggest_int(name, domain.low, domain.high, step=domain.step, log=domain.log)
    else:
        trial.suggest_float(name, domain.low, domain.high, log=domain.log)


def ends(domain: Domain) -> list[Any]:
    """Return the values that show whether a range is within limits: both ends, or all choices."""
    if isinstance(domain, Choice):
        return [_plain(option) for option in domain.options]
    return [domain.low] if domain.low == domain.high else [domain.low, domain.high]


def draw(domain: Domain, generator: random.Random) -> Any:
    """Return a random value, as a recipe has it."""
    if isinstance(domain, Choice):
        return _plain(generator.choice(domain.options))
    if isinstance(domain, IntRange):
        return generator.randrange(domain.low, domain.high + 1, domain.step)
    return generator.uniform(domain.low, domain.high)


def fitting(domain: Domain, value: Any) -> Any:
    """Return a value of a study file as it stands in the study.

    Raises:
        ValueError: it is not in the range.
    """
    if isinstance(domain, Choice):
        known = [encoded(option) for option in domain.options]
        if not any(_same(encoded(value), option) for option in known):
            raise ValueError(f"{value!r} is none of the choices {', '.join(map(repr, known))}")
        return encoded(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number (write 1.0e-3, not 1e-3)")
    if not domain.low <= value <= domain.high:
        raise ValueError(f"{value} is outside its range {domain.low} to {domain.high}")
    if isinstance(domain, IntRange):
        if (value - domain.low) % domain.step:
            raise ValueError(f"{value} is not {domain.low} plus steps of {domain.step}")
        return int(value)
    return float(value)


def encoded(value: Any) -> bool | int | float | str | None:
    """Return a value as it stands in the study."""
    plain = _plain(value)
    return json.dumps(plain) if isinstance(plain, (list, dict)) else plain


def decoded(domain: Domain, value: Any) -> Any:
    """Return a value from the study as it stands in a recipe."""
    if isinstance(domain, Choice):
        return next(_plain(item) for item in domain.options if _same(encoded(item), value))
    return value


def _same(one: Any, other: Any) -> bool:
    """Compare two values of a study: True is not 1 here."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _plain(value: Any) -> Any:
    """Return a value as YAML has it."""
    return list(map(_plain, value)) if isinstance(value, (list, tuple)) else value
