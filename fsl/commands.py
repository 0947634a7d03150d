"""`fewshot methods [NAME]`: what can stand in a recipe, and the settings it has there."""

from __future__ import annotations

import argparse
import inspect
import shutil
from typing import Any

from fsl.additions import ADDITIONS
from fsl.backbones import BACKBONES
from fsl.episode_heads import HEADS
from fsl.errors import UnknownNameError
from fsl.method import METHODS
from fsl.registry import Registry
from fsl.settings_table import as_markdown, as_text, settings

REGISTRIES: tuple[Registry[Any], ...] = (METHODS, ADDITIONS, BACKBONES, HEADS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="what to describe")
    parser.add_argument("--markdown", action="store_true", help="print its settings for the docs")


def main(args: argparse.Namespace) -> int:
    """List what is registered, or describe one of it."""
    print(describe(args.name, args.markdown) if args.name else listing())
    return 0


def listing() -> str:
    """Return every method, addition, backbone and head with the first line of its documentation."""
    lines = []
    for registry in REGISTRIES:
        names = registry.names()
        width = max(map(len, names), default=0)
        lines += [
            f"{registry.kind}s",
            *(f"  {n:<{width}}  {_summary(registry.get(n))}" for n in names),
        ]
    return "\n".join([*lines, "`fewshot methods NAME` lists the settings of one."])


def describe(name: str, markdown: bool = False) -> str:
    """Return the settings of one thing that `listing` has; raises UnknownNameError."""
    for registry in REGISTRIES:
        if name in registry.names():
            break
    else:
        known = [other for registry in REGISTRIES for other in registry.names()]
        raise UnknownNameError("method, addition, backbone or head", name, known)
    kind = registry.get(name)
    rows = [row for row in settings(kind.Config) if row.key != registry.tag]
    if markdown:
        return as_markdown(rows)
    width = min(shutil.get_terminal_size().columns, 100)
    batch = f" Consumes {kind.batch_type.__name__}." if hasattr(kind, "batch_type") else ""
    head = f"{name} ({registry.kind}): {_summary(kind)}{batch}"
    return f"{head}\n\n{as_text(rows, width)}" if rows else f"{head}\nIt has no settings."


def _summary(kind: type) -> str:
    """Return the first line of a class's own documentation."""
    own = kind.__dict__.get("__doc__") or ""
    return inspect.cleandoc(own).partition("\n")[0] or "(no description)"
