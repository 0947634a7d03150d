"""Recipes: YAML, overrides, near matches, tags inside containers, fingerprints."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from fsl.config import (
    RuntimeOnly,
    Section,
    build,
    fingerprint,
    load_recipe,
    parse_overrides,
    tagged,
)
from fsl.errors import ConfigError
from fsl.registry import Registry

BUILTINS = "test_config_builtin_shapes"
SHAPES: Registry[Any] = Registry("shape", BUILTINS, "fsl.test.none")


class CircleConfig(Section):
    name: Literal["circle"] = "circle"
    radius: Annotated[float, Field(gt=0)] = 1.0


class BoxConfig(Section):
    name: Literal["box"] = "box"
    width: int = 2
    height: int = 3


@SHAPES.register("circle")
class Circle:
    Config: ClassVar = CircleConfig


@SHAPES.register("box")
class Box:
    Config: ClassVar = BoxConfig


AnyShape = tagged(SHAPES)


class Inner(Section):
    depth: Annotated[int, Field(ge=1)] = 4
    threads: Annotated[int, RuntimeOnly] = 1
    every: Annotated[int, Field(ge=1), RuntimeOnly] | None = None


class Outer(Section):
    inner: Inner = Inner()
    shape: AnyShape = CircleConfig()  # type: ignore[valid-type]
    shapes: list[AnyShape] = Field(default_factory=list)  # type: ignore[valid-type]
    named: dict[str, AnyShape] = Field(default_factory=dict)  # type: ignore[valid-type]
    maybe: AnyShape | None = None  # type: ignore[valid-type]
    rates: tuple[float, float] = (0.9, 0.999)
    place: Path = Path("here")


@pytest.fixture(autouse=True)
def _builtins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, BUILTINS, ModuleType(BUILTINS))


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_becomes_typed_frozen_settings(tmp_path: Path) -> None:
    path = recipe(tmp_path, "inner: {depth: 7}\nshape: {name: box, width: 5}\nplace: there\n")
    config = load_recipe(path, Outer, ["shape.height=9"])
    assert config == Outer(
        inner=Inner(depth=7), shape=BoxConfig(width=5, height=9), place=Path("there")
    )
    with pytest.raises(ValueError, match="frozen"):
        config.inner.depth = 8  # type: ignore[misc]


def test_every_fault_gets_its_own_line_with_the_file_in_front(tmp_path: Path) -> None:
    path = recipe(tmp_path, "inner: {depth: 0, dept: 1}\nshape: {name: circle, radius: -1}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, Outer)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert any("inner.dept: unknown key; did you mean 'depth'?" in line for line in lines)
    assert any(
        "inner.depth: Input should be greater than or equal to 1 (got 0)" in x for x in lines
    )
    assert any("shape.radius: Input should be greater than 0 (got -1)" in line for line in lines)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"iner": {}}, "iner: unknown key; did you mean 'inner'?; known here: inner, "),
        ({"shape": {"name": "box", "widht": 1}}, "shape.widht: unknown key; did you mean 'width'?"),
        (
            {"shapes": [{"name": "circle"}, {"name": "box", "heigth": 1}]},
            "shapes.1.heigth: unknown key; did you mean 'height'?; known here: height, name, width",
        ),
        (
            {"named": {"a": {"name": "circle", "radios": 1}}},
            "named.a.radios: unknown key; did you mean 'radius'?",
        ),
        (
            {"maybe": {"name": "circle", "radios": 1}},
            "maybe.radios: unknown key; did you mean 'radius'?",
        ),
        ({"shape": {"name": "cirle"}}, "shape: unknown shape 'cirle'; did you mean 'circle'?"),
        ({"shape": {"radius": 1}}, "shape: the key 'name' is missing; one of: box, circle"),
        ({"shape": "circle"}, "shape: expected a mapping with the key 'name', got 'circle'"),
        ({"shapes": [{"name": 3}]}, "shapes.0: unknown shape '3'; registered: box, circle"),
        ({"inner": None}, "inner: Input should be a valid dictionary or instance of Inner"),
        ({"rates": [0.9]}, "rates.1: this key is required"),
        ({"inner": {"depth": "many"}}, "inner.depth: Input should be a valid integer"),
        ({"inner": {"depth": float("nan")}}, "inner.depth: Input should be a finite number"),
        ({"rates": [0.9, float("inf")]}, "rates.1: Input should be a finite number"),
    ],
)
def test_faults_name_key_rule_and_near_match(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, tree)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner: {depth: 1}\ninner: {depth: 2}\n", "the key 'inner' is written twice"),
        ("inner:\n  depth: 1\n  depth: 2\n", "the key 'depth' is written twice"),
        ("inner: [1\n", "not valid YAML"),
        ("? [a, b]\n: 1\n", "a key must be a plain word"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("--- 1\n--- 2\n", "not valid YAML"),
        ("inner:\n  depth: !!int x\n", "not valid YAML: 'x' is no int"),
        ("inner: {depth: 2020-13-45}\n", "'2020-13-45' is no timestamp"),
        ("- inner\n", "a recipe is a mapping of sections, this is ['inner']"),
        ("", "a recipe is a mapping of sections, this is None"),
    ],
)
def test_broken_yaml_is_refused_with_the_file_named(
    tmp_path: Path, text: str, message: str
) -> None:
    path = recipe(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, Outer)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_merge_keys_still_work(tmp_path: Path) -> None:
    text = "named:\n  a: &box {name: box, width: 5}\n  b: {<<: *box, height: 1}\n"
    config = load_recipe(recipe(tmp_path, text), Outer)
    assert config.named["b"] == BoxConfig(width=5, height=1)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_unreadable_recipes_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"recipe\.yaml: cannot be read as a recipe"):
        load_recipe(path, Outer)


def test_overrides_are_read_as_yaml() -> None:
    values = parse_overrides(["a=1", "b.c=[1, x]", "d=", "e=null", "f=x=y", "g={h: true}"])
    assert values == {"a": 1, "b.c": [1, "x"], "d": None, "e": None, "f": "x=y", "g": {"h": True}}


@pytest.mark.parametrize(
    "item",
    [
        *("a", "=1", ".=1", "a..b=1", "a.=1", "a=[1", "a={b: 1, b: 2}"),
        *("a=2020-13-45", "a=[!!int x]", "a=!!int ''", "a=!!timestamp zz", "a=!!bool maybe"),
    ],
)
def test_malformed_overrides_are_quoted_in_the_message(item: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides([item])
    assert f"override {item!r}" in str(caught.value)


def test_overrides_reach_into_lists_tuples_and_missing_sections() -> None:
    tree = {"shapes": [{"name": "box"}, {"name": "circle"}], "rates": (0.5, 0.6)}
    config = build(Outer, tree, {"shapes.1.radius": 4, "inner.depth": 2, "rates.0": 0.1})
    assert config.shapes[1] == CircleConfig(radius=4)
    assert config.inner.depth == 2
    assert config.rates == (0.1, 0.6)
    assert build(Outer, tree, {"shapes.0": {"name": "circle"}}).shapes[0] == CircleConfig()
    assert tree["rates"] == (0.5, 0.6)  # the tree that was given is left alone


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("shapes.2.width", "'2' is not a position in a list of 1"),
        ("shapes.x", "'x' is not a position in a list of 1"),
        ("place.deeper", "place is not a section but 'here'"),
        ("place.even.deeper", "there is no section 'even'"),
    ],
)
def test_overrides_that_lead_nowhere_are_refused(key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, {"shapes": [{"name": "box"}], "place": "here"}, {key: 1})
    assert f"override {key!r}" in str(caught.value)
    assert message in str(caught.value)


def test_tagged_settings_survive_a_round_trip() -> None:
    config = Outer(
        shape=BoxConfig(width=9),
        shapes=[CircleConfig(radius=2), BoxConfig()],
        named={"a": CircleConfig(radius=3)},
        maybe=BoxConfig(height=1),
    )
    tree = config.model_dump(mode="json")
    assert tree["maybe"] == {"name": "box", "width": 2, "height": 1}
    assert build(Outer, tree) == config


def test_fingerprint_ignores_what_cannot_change_a_result() -> None:
    base = fingerprint(Outer())
    assert len(base) == 64
    assert fingerprint(Outer(inner=Inner(threads=8))) == base
    assert fingerprint(Outer(inner=Inner(every=5))) == base  # annotated inside an alternative
    assert fingerprint(build(Outer, {"inner": {"depth": 4}})) == base  # defaults, written out
    assert fingerprint(build(Outer, {"rates": [0.9, 0.999]})) == base
    assert fingerprint(Outer(inner=Inner(depth=5))) != base
    assert fingerprint(Outer(shape=CircleConfig(radius=2))) != base
    assert fingerprint(Outer(named={"a": BoxConfig()})) != base
