"""Names in recipes -> classes in code, ours and those of installed plug-ins.

A plug-in declares, for example, `[project.entry-points."fsl.methods"] mine = "mine:Mine"`;
after `pip install` its name is valid in any recipe. Names are never Python paths.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from fsl.errors import ConfigError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind by name.

    Args:
        kind: what the classes are, for messages ("method").
        builtins: package whose import registers our own classes ("fsl.methods").
        group: entry-point group in which plug-ins announce theirs.
        tag: the recipe key that holds the name ("name", or "kind" for stages).
    """

    def __init__(self, kind: str, builtins: str, group: str, tag: str = "name") -> None:
        self.kind, self.builtins, self.group, self.tag = kind, builtins, group, tag
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator that adds the class under `name`."""

        def add(item: T) -> T:
            other = self._items.get(name)
            if other is not None and _identity(other) != _identity(item):
                raise ConfigError(
                    f"{self.kind} {name!r} is registered twice: {other!r} and {item!r}; rename one"
                )
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """Return the class registered under `name`; raises UnknownNameError."""
        if name not in self._items:
            self._load()
        if name not in self._items:
            raise UnknownNameError(self.kind, name, self._items)
        return self._items[name]

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        self._load()
        return sorted(self._items)

    def parse(self, value: Any) -> Any:
        """Return the typed settings for a recipe's mapping: the tag's value picks the class.

        Used as a pydantic validator (see `fsl.config.tagged`). A model instance passes through.
        """
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"expected a mapping with the key {self.tag!r}, got {value!r}")
        if self.tag not in value:
            listed = ", ".join(self.names())
            raise ValueError(f"the key {self.tag!r} is missing; one of: {listed}")
        try:
            chosen: Any = self.get(str(value[self.tag]))
        except UnknownNameError as error:
            raise ValueError(str(error)) from None
        return chosen.Config.model_validate(value)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before the imports: they may ask for names themselves
        try:
            importlib.import_module(self.builtins)
            for point in entry_points(group=self.group):
                self.register(point.name)(self._plugin(point))
        except BaseException:
            self._loaded = False  # the next call meets the same fault, not a shorter list
            raise

    def _plugin(self, point: EntryPoint) -> Any:
        origin = f"{self.kind} {point.name!r} of the installed package " + repr(
            point.dist.name if point.dist else point.value
        )
        try:
            item = point.load()
        except Exception as error:  # whatever a stranger's module raises
            raise ConfigError(
                f"{origin} cannot be imported from {point.value!r} "
                f"({type(error).__name__}: {error}); mend or uninstall it"
            ) from error
        if not hasattr(item, "Config"):
            raise ConfigError(f"{origin}: {point.value!r} has no settings class `Config`")
        return item


def _identity(item: object) -> tuple[str | None, str | None]:
    return getattr(item, "__module__", None), getattr(item, "__qualname__", None)
