"""Recipes: YAML -> typed, frozen settings; one `build` for the command line and for trials.

Every section is a pydantic model that refuses unknown keys. Errors come out as `ConfigError`,
one line per fault, each with the dotted key, the value and the rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fsl.errors import ConfigError, did_you_mean
from fsl.registry import Registry


class Section(BaseModel):
    """Base of all settings: frozen, unknown keys refused, attribute docstrings kept."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class _RuntimeOnly:
    """Marker type; use the instance `RuntimeOnly`."""


RuntimeOnly = _RuntimeOnly()
"""Annotates fields (loader workers, log interval) that cannot change a result: they stay out of
the fingerprint, so changing them does not train again."""

S = TypeVar("S", bound=BaseModel)


def tagged(registry: Registry[Any]) -> Any:
    """Return the type of a field that holds the settings of any class in `registry`.

    Serialised with all fields of the concrete settings class.
    """
    return Annotated[SerializeAsAny[Section], BeforeValidator(registry.parse)]


def load_recipe(path: Path, schema: type[S], overrides: Sequence[str] = ()) -> S:
    """Return the settings in a YAML file, after `section.key=value` overrides.

    Raises:
        ConfigError: unreadable file, invalid YAML, unknown key, or a value out of its limits.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe: {_reason(error)}") from None
    try:
        tree = _UniqueKeyLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, this is {_short(tree)}")
    return build(schema, tree, parse_overrides(overrides), origin=str(path))


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """Return dotted key -> value for `key=value` strings; values are read as YAML."""
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"override {item!r}: write it as section.key=value")
        try:
            values[key.strip()] = _UniqueKeyLoader(text).get_single_data()
        except yaml.YAMLError:
            raise ConfigError(f"override {item!r}: {text!r} is not a YAML value") from None
    return values


def build(
    schema: type[S],
    tree: Mapping[str, Any],
    values: Mapping[str, Any] | None = None,
    *,
    origin: str = "",
) -> S:
    """Return `schema` from a nested mapping, after setting the dotted keys in `values`.

    Raises:
        ConfigError: one line per fault, prefixed by `origin` (the recipe's path).
    """
    merged = json_copy(tree)
    for key, value in (values or {}).items():
        _set_dotted(merged, key, value, origin)
    try:
        return schema.model_validate(merged)
    except ValidationError as error:
        where = f"{origin}: " if origin else ""
        lines = [where + _explain(detail, schema, merged) for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def field_metadata(field: FieldInfo) -> Iterator[Any]:
    """Yield what is annotated on a field or, for `Annotated[...] | None`, on an alternative."""
    yield from field.metadata
    if get_origin(field.annotation) in (Union, UnionType):
        for option in get_args(field.annotation):
            yield from getattr(option, "__metadata__", ())


def fingerprint(config: BaseModel) -> str:
    """Return the sha256 of the settings that can change a result (64 hex digits)."""
    return digest(_dump(config))


def digest(value: Any) -> str:
    """Return the sha256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def json_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy in which every mapping is a plain dict."""
    return {key: _copy(value) for key, value in tree.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json_copy(value)
    return [_copy(item) for item in value] if isinstance(value, (list, tuple)) else value


def _dump(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {
            name: _dump(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if not any(isinstance(item, _RuntimeOnly) for item in field_metadata(field))
        }
    if isinstance(value, Mapping):
        return {str(key): _dump(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_dump(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _set_dotted(tree: dict[str, Any], key: str, value: Any, origin: str) -> None:
    *parents, last = key.split(".")
    node: Any = tree
    for parent in parents:
        node = _step(node, parent, key, origin)
    if isinstance(node, list):
        node[_position(node, last, key)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"override {key!r}: {'.'.join(parents)} is not a section but {node!r}")


def _step(node: Any, name: str, key: str, origin: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, name, key)]
    if not isinstance(node, dict):
        raise ConfigError(f"override {key!r}: there is no section {name!r} in {origin or 'it'}")
    if node.get(name) is None:
        if name not in node and key.startswith("stages."):
            known = ", ".join(node)
            near = did_you_mean(name, node)
            if name in key.split(".")[1:2]:
                raise ConfigError(f"override {key!r}: no stage {name!r}{near}; stages: {known}")
        node[name] = {}
    return node[name]


def _position(node: list[Any], name: str, key: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise ConfigError(f"override {key!r}: {name!r} is not a position in a list of {len(node)}")
    return int(name)


def _explain(detail: ErrorDetails, schema: type[BaseModel], tree: Mapping[str, Any]) -> str:
    """Return one line: dotted key, rule, value, near match."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location) or "recipe"
    kind, message, value = detail["type"], detail["msg"], detail["input"]
    if kind == "extra_forbidden":
        known = _known_keys(schema, location[:-1], tree)
        listed = f"; known here: {', '.join(sorted(known))}" if known else ""
        return f"{key}: unknown key{did_you_mean(location[-1], known)}{listed}"
    if kind == "missing":
        return f"{key}: this key is required"
    message = message.removeprefix("Value error, ")
    return (
        message
        if kind == "value_error" and not location
        else f"{key}: {message} (got {_short(value)})"
    )


def _known_keys(
    schema: type[BaseModel], parents: Sequence[str], tree: Mapping[str, Any]
) -> list[str]:
    """Return the keys allowed in the section at `parents`, following tags into registries."""
    kind: Any = schema
    node: Any = tree
    for part in parents:
        node = _child(node, part)
        if isinstance(node, dict):  # some mappings name their sections by key alone
            node = {"name": part, **node}
        if _is_model(kind):
            field = kind.model_fields.get(part)
            kind = field and _concrete(field.annotation, field.metadata, node)
        else:
            kind = _concrete((get_args(kind) or (None,))[-1], (), node)
    return list(kind.model_fields) if _is_model(kind) else []


def _concrete(annotation: Any, metadata: Sequence[Any], node: Any) -> Any:
    """Return the model class behind a type, or the container, looking through tags and unions."""
    if get_origin(annotation) is Annotated:
        return _concrete(annotation.__origin__, annotation.__metadata__, node)
    for item in metadata:
        owner = getattr(getattr(item, "func", None), "__self__", None)
        if isinstance(owner, Registry) and isinstance(node, Mapping) and owner.tag in node:
            chosen = str(node[owner.tag])
            return owner.get(chosen).Config if chosen in owner.names() else None
    if get_origin(annotation) in (Union, UnionType):
        options = [_concrete(option, (), node) for option in get_args(annotation)]
        return next((option for option in options if option is not NoneType), None)
    return annotation


def _child(node: Any, part: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(part)
    inside = isinstance(node, list) and part.isdigit() and int(part) < len(node)
    return node[int(part)] if inside else None


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice: the second would silently win."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # PyYAML lets them out
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r} is no {node.tag.rpartition(':')[2]}", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain word", key_node.start_mark
                )
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
