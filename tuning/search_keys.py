"""What a study searches: its keys, looked up in the recipe, become dimensions with ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fsl.config import RuntimeOnly, field_metadata
from fsl.errors import ConfigError, did_you_mean
from fsl.search_space import Choice, Domain, IntRange, domain_of, search_space
from pipelines.runner import PipelineConfig
from tuning.ranges import RangeConfig, distribution


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched.

    Attributes:
        name: in the study, `optim.lr`; of several recipes, `protonet.optim.lr`.
        key: in the recipe, `stages.train.optim.lr`.
        domain: its values.
    """

    name: str
    key: str
    domain: Domain


@dataclass(frozen=True)
class _Place:
    """What is at a key of a recipe."""

    value: Any
    field: FieldInfo | None
    runtime: bool  # cannot change a result


class Searched:
    """The keys of one recipe's `search` and `points`.

    Args:
        recipe: the recipe, validated.
        objective: label of the judged stage.
        labels: the stages that a trial runs.
        fixed: dotted keys that the study sets.
        where: how messages name the recipe's settings, "" or "recipes.LABEL.".
    """

    def __init__(
        self,
        recipe: PipelineConfig,
        objective: str,
        labels: set[str],
        fixed: Mapping[str, Any],
        where: str = "",
    ) -> None:
        self.recipe, self.objective, self.labels = recipe, objective, labels
        self.fixed, self.where = fixed, where

    def dimensions(
        self, search: Mapping[str, str | RangeConfig], prefix: str = ""
    ) -> tuple[Dimension, ...]:
        """Return what is searched, in the study file's order.

        Raises:
            ConfigError: an unknown key, no range, or one that contradicts itself.
        """
        explicit = {self.absolute(key) for key in search}
        found: dict[str, Domain] = {}
        for written, wanted in search.items():
            where = f"{self.where}search.{written}"
            key = self.absolute(written)
            self._check_searchable(where, key)
            place = self._look_up(where, key)
            if _is_section(place.value):
                if wanted != "own":
                    raise ConfigError(f"{where}: a section, which has no range; name its settings")
                inside = dict(self._inside(where, key, place, explicit))
                if not inside:
                    raise ConfigError(
                        f"{where}: no setting in it has a range; name one with {{low: "
                        "..., high: ...}} or {{choices: [...]}}"
                    )
                found = {**inside, **found}
            else:
                found[key] = self._domain(where, place, wanted)
                if key in self.fixed:
                    raise ConfigError(f"{where}: also fixed by {self.where}set; remove one of them")
        for key, domain in found.items():
            try:
                distribution(domain)
            except ValueError as error:
                raise ConfigError(f"{self.where}search.{self.short(key)}: {error}") from None
        return tuple(Dimension(prefix + self.short(k), k, domain) for k, domain in found.items())

    def absolute(self, key: str) -> str:
        """Return a key of the judged stage as a key of the recipe."""
        return key if key.startswith("stages.") else f"stages.{self.objective}.{key}"

    def short(self, key: str) -> str:
        """Return a key of the recipe as short as it may be written."""
        return key.removeprefix(f"stages.{self.objective}.")

    def _check_searchable(self, where: str, key: str) -> None:
        label, _, inside = key.removeprefix("stages.").partition(".")
        if label not in self.recipe.stages:
            listed = ", ".join(self.recipe.stages)
            near = did_you_mean(label, self.recipe.stages)
            raise ConfigError(f"{where}: there is no stage {label!r}{near}; stages: {listed}")
        if label not in self.labels:
            raise ConfigError(
                f"{where}: stage {label!r} comes after {self.objective!r}, which is judged, and "
                "cannot change its result"
            )
        if inside == "seed":
            raise ConfigError(f"{where}: a seed is not searched; the study's seed is every trial's")
        if label == self.objective and inside.partition(".")[0] == "validation":
            raise ConfigError(
                f"{where}: trials are compared by their validation, which must be the same in all; "
                "set it in the study's validation section"
            )

    def _look_up(self, where: str, key: str) -> _Place:
        """Return what is at a key of the recipe."""
        node: Any = self.recipe
        field: FieldInfo | None = None
        runtime = False
        passed: list[str] = []
        for part in key.split("."):
            known = _names(node)
            if part not in known:
                at = self.short(".".join(passed)) or "the recipe"
                if node is None:
                    raise ConfigError(
                        f"{where}: {at} is null in the recipe; give the section in {self.where}set"
                    )
                listed = f"; known there: {', '.join(sorted(known))}" if known else ""
                raise ConfigError(
                    f"{where}: there is no {part!r} in {at}{did_you_mean(part, known)}{listed}"
                )
            field = type(node).model_fields[part] if isinstance(node, BaseModel) else None
            runtime = runtime or (field is not None and is_runtime(field))
            node = _step(node, part)
            passed.append(part)
        return _Place(node, field, runtime)

    def _inside(
        self, where: str, section: str, place: _Place, explicit: set[str]
    ) -> Iterator[tuple[str, Domain]]:
        """Yield the settings of a section that have a range and are not dealt with elsewhere."""
        if not isinstance(place.value, BaseModel):
            raise ConfigError(f"{where}: a list or mapping; name the settings in it")
        for name, domain in search_space(place.value).items():
            key = f"{section}.{name}"
            dealt_with = key in self.fixed or key in explicit
            if not dealt_with and not self._look_up(where, key).runtime:
                yield key, domain

    def _domain(self, where: str, place: _Place, wanted: str | RangeConfig) -> Domain:
        if place.runtime:
            raise ConfigError(f"{where}: it cannot change a result, so it is not searched")
        own = domain_of(place.field) if place.field is not None else None
        if not isinstance(wanted, RangeConfig):
            if own is None:
                raise ConfigError(
                    f"{where}: the setting declares no range of its own; write {{low: ..., high: "
                    "...} or {choices: [...]}"
                )
            return own
        kinds = _number_types(place)
        if wanted.choices is None and not kinds:
            raise ConfigError(f"{where}: not a number (it is {place.value!r}); use choices")
        try:
            return wanted.domain(whole=kinds == {int})
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None


def _is_section(value: Any) -> bool:
    return isinstance(value, (BaseModel, dict)) or (
        isinstance(value, (list, tuple)) and any(map(_is_section, value))
    )


def _names(node: Any) -> list[str]:
    """Return the keys of a section, mapping or list."""
    if isinstance(node, BaseModel):
        return list(type(node).model_fields)
    if isinstance(node, dict):
        return list(map(str, node))
    return [str(at) for at in range(len(node))] if isinstance(node, (list, tuple)) else []


def _step(node: Any, part: str) -> Any:
    if isinstance(node, BaseModel):
        return getattr(node, part)
    return node[part] if isinstance(node, dict) else node[int(part)]


def is_runtime(field: FieldInfo) -> bool:
    """Return whether a setting cannot change a result."""
    return any(isinstance(item, type(RuntimeOnly)) for item in field_metadata(field))


def _number_types(place: _Place) -> set[type]:
    """Return which of int and float a setting may be."""
    if place.field is None:  # an entry of a list or mapping: like the one that is there
        return {type(place.value)} & {int, float}
    domain = domain_of(place.field)
    if domain is not None and not isinstance(domain, Choice):
        return {int} if isinstance(domain, IntRange) else {float}
    return set(_types(place.field.annotation)) & {int, float}


def _types(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for option in get_args(annotation):
            yield from _types(option)
    else:
        yield annotation
