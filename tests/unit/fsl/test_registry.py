"""Registries: names, near matches, plug-ins and their faults."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, ClassVar

import pytest

from fsl import registry as registry_module
from fsl.config import Section
from fsl.errors import ConfigError, FewShotError, UnknownNameError
from fsl.registry import Registry

BUILTINS, PLUGIN = "test_registry_builtins", "test_registry_plugin"


class Settings(Section):
    name: str = "ours"
    size: int = 1


class Ours:
    Config: ClassVar = Settings


class Theirs:
    Config: ClassVar = Settings


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    monkeypatch.setitem(sys.modules, BUILTINS, ModuleType(BUILTINS))
    made: Registry[Any] = Registry("shape", BUILTINS, "fsl.test.none")
    made.register("ours")(Ours)
    return made


def install(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """Announce entry points, name=value, of a module that holds `Theirs` and a function."""
    module = ModuleType(PLUGIN)
    module.__dict__.update(Theirs=Theirs, Ours=Ours, function=lambda: None)
    monkeypatch.setitem(sys.modules, PLUGIN, module)
    found = [EntryPoint(name, value, "fsl.test.none") for name, value in points.items()]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: found)


def test_names_and_classes_are_found(shapes: Registry[Any]) -> None:
    assert shapes.names() == ["ours"]
    assert shapes.get("ours") is Ours


def test_unknown_names_list_what_there_is_and_the_near_match(shapes: Registry[Any]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        shapes.get("our")
    assert str(caught.value) == "unknown shape 'our'; did you mean 'ours'?; registered: ours"
    assert isinstance(caught.value, FewShotError)


def test_a_plugin_becomes_a_name(shapes: Registry[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, theirs=f"{PLUGIN}:Theirs")
    assert shapes.names() == ["ours", "theirs"]
    assert shapes.parse({"name": "theirs", "size": 3}) == Settings(name="theirs", size=3)


def test_a_plugin_may_not_take_a_name_of_ours(
    shapes: Registry[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, ours=f"{PLUGIN}:Theirs")
    for _ in range(2):  # it does not pass at the second attempt
        with pytest.raises(ConfigError, match=r"shape 'ours' is registered twice: .*Ours.*Theirs"):
            shapes.names()


def test_the_same_class_announced_twice_is_no_conflict(
    shapes: Registry[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, ours=f"{PLUGIN}:Ours")
    assert shapes.names() == ["ours"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module_at_all:X", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        (f"{PLUGIN}:Missing", "has no attribute 'Missing'"),
        (f"{PLUGIN}:function", "has no settings class `Config`"),
    ],
)
def test_a_broken_plugin_is_named(
    shapes: Registry[Any], monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    install(monkeypatch, broken=value)
    with pytest.raises(ConfigError) as caught:
        shapes.names()
    assert "shape 'broken' of the installed package" in str(caught.value)
    assert message in str(caught.value)


def test_a_registered_name_is_found_without_importing_everything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone: Registry[Any] = Registry("shape", "no_such_builtins", "fsl.test.none")
    alone.register("ours")(Ours)
    assert alone.get("ours") is Ours
    with pytest.raises(ModuleNotFoundError):
        alone.get("other")


def test_settings_pass_through_and_other_values_are_refused(shapes: Registry[Any]) -> None:
    settings = Settings(size=4)
    assert shapes.parse(settings) is settings
    with pytest.raises(ValueError, match="expected a mapping with the key 'name', got 3"):
        shapes.parse(3)


def test_the_tag_may_have_another_name() -> None:
    stages: Registry[Any] = Registry("stage", "sys", "fsl.test.none", tag="kind")
    with pytest.raises(ValueError, match="the key 'kind' is missing"):
        stages.parse({"name": "train"})
