"""The settings of a config class as a table: for `fewshot methods NAME` and for the docs.

Everything is read from the class: types, defaults, limits, search ranges and attribute docs.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from fsl.config import field_metadata
from fsl.registry import Registry
from fsl.search_space import Choice, Domain, domain_of

SIGNS = {
    annotated_types.Ge: ("ge", ">="),
    annotated_types.Gt: ("gt", ">"),
    annotated_types.Le: ("le", "<="),
    annotated_types.Lt: ("lt", "<"),
    annotated_types.MinLen: ("min_length", "length >="),
    annotated_types.MaxLen: ("max_length", "length <="),
    annotated_types.MultipleOf: ("multiple_of", "multiple of"),
}
NAMES: dict[type, str] = {NoneType: "null", BaseModel: "section", Path: "path"}


class Setting(NamedTuple):
    """One row: everything a reader of recipes needs to know about a key."""

    key: str
    type: str
    default: str
    limits: str
    range: str
    doc: str


HEADER = Setting("key", "type", "default", "limits", "search range", "what it is")


def settings(schema: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Yield a row per setting; those of sections inside have dotted keys."""
    for name, field in schema.model_fields.items():
        section = _section(field.annotation)
        yield Setting(
            prefix + name,
            _type(field),
            _default(field, section),
            ", ".join(dict.fromkeys(_limits(field))),
            _range(domain_of(field)),
            " ".join((field.description or "").split()),
        )
        if section is not None:
            yield from settings(section, f"{prefix}{name}.")


def as_text(rows: Sequence[Setting], width: int) -> str:
    """Return aligned lines no wider than `width`: a row's facts, then its doc, indented."""
    table = [HEADER, *rows]
    columns = [[row[i] or "-" for row in table] for i in range(len(HEADER) - 1)]
    widths = [min(max(map(len, column)), 28) for column in columns]
    lines = []
    for number, row in enumerate(table):
        cells = (columns[i][number].ljust(widths[i]) for i in range(len(columns)))
        lines.append("  ".join(cells).rstrip())
        lines += textwrap.wrap(row.doc, width, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def as_markdown(rows: Sequence[Setting]) -> str:
    """Return a Markdown table."""
    lines = [_markdown_line(HEADER), _markdown_line(["---"] * len(HEADER))]
    return "\n".join(lines + [_markdown_line([f"`{row.key}`", *row[1:]]) for row in rows])


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class that a field holds, alone or as an alternative to null."""
    kind = _bare(annotation)
    if get_origin(kind) in (Union, UnionType):
        found = [section for option in get_args(kind) if (section := _section(option))]
        return found[0] if len(found) == 1 else None
    # a tagged field is typed as a class without fields; its keys depend on the tag
    is_section = isinstance(kind, type) and issubclass(kind, BaseModel) and kind.model_fields
    return kind if is_section else None


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _type(field: FieldInfo) -> str:
    for item in field_metadata(field):
        owner = getattr(item.func, "__self__", None) if isinstance(item, BeforeValidator) else None
        if isinstance(owner, Registry):
            optional = " or null" if NoneType in get_args(field.annotation) else ""
            return f"{owner.kind} by {owner.tag}{optional}"
    return _type_name(field.annotation)


def _type_name(annotation: Any) -> str:
    kind = _bare(annotation)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(_type_name, parts))
    if origin is not None:
        return _container_name(origin, [part for part in parts if part is not Ellipsis], parts)
    for base, name in NAMES.items():
        if issubclass(kind, base):
            return name
    return str(kind.__name__)


def _container_name(origin: Any, inside: Sequence[Any], parts: Sequence[Any]) -> str:
    names = list(map(_type_name, inside))
    if origin is tuple and len(inside) == len(parts):
        return f"[{', '.join(names)}]"
    return f"mapping to {names[-1]}" if issubclass(origin, Mapping) else f"list of {names[0]}"


def _default(field: FieldInfo, section: type[BaseModel] | None) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if section is not None and value is not None else _value(value)


def _value(value: Any) -> str:
    """Return a value much as one would write it in YAML."""
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _limits(item: Any) -> Iterator[str]:
    """Yield the limits of a field, of its alternatives and of its elements."""
    if isinstance(item, FieldInfo):
        for part in item.metadata:
            yield from _limits(part)
        yield from _limits(item.annotation)
    elif type(item) in SIGNS:
        attribute, sign = SIGNS[type(item)]
        yield f"{sign} {_value(getattr(item, attribute))}"
    elif get_origin(item) not in (None, Literal):
        for part in get_args(item):
            yield from _limits(part)


def _range(domain: Domain | None) -> str:
    if domain is None:
        return ""
    if isinstance(domain, Choice):
        return "one of " + ", ".join(map(_value, domain.options))
    scale = ", log" if domain.log else ""
    return f"{_value(domain.low)} .. {_value(domain.high)}{scale}"
