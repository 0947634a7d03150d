"""What mkdocs does while it reads a page: settings tables and files of the repository.

Two comments in a page are replaced, so that the site cannot disagree with the code:

    <!-- settings: method smkd -->      the table of one config class
    <!-- settings: backbone * -->       a heading and a table for each of them
    <!-- include: CONTRIBUTING.md -->   a file of the repository, if it is there
"""

from __future__ import annotations

import html
import os.path
import re
from pathlib import Path
from typing import Any

from data_shards.episode_designs import EPISODE_DESIGNS
from data_shards.sources import SOURCES
from fsl.additions import ADDITIONS
from fsl.backbones import BACKBONES
from fsl.episode_heads import HEADS
from fsl.errors import ConfigError
from fsl.method import METHODS
from fsl.registry import Registry
from fsl.settings_table import Setting, settings
from pipelines.stage import STAGES
from tuning.pruners import PRUNERS
from tuning.samplers import SAMPLERS

ROOT = Path(__file__).parents[1]
REGISTRIES: dict[str, Registry[Any]] = {
    registry.kind: registry
    for registry in (METHODS, ADDITIONS, BACKBONES, HEADS, SOURCES, STAGES, SAMPLERS, PRUNERS)
} | {"episodes": EPISODE_DESIGNS}
SETTINGS = re.compile(r"<!-- settings: (\w+) (\w+|\*) -->")
INCLUDE = re.compile(r"<!-- include: (\S+) -->")
LONG_DECIMAL = re.compile(r"\d+\.\d{6,}")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page's text with the comments replaced; mkdocs calls this."""
    return rendered(markdown, page.file.src_uri)


def rendered(markdown: str, page: str) -> str:
    """Return the text of a page, named relative to docs/, with the comments replaced."""
    markdown = INCLUDE.sub(lambda match: included(match[1], page), markdown)
    return SETTINGS.sub(lambda match: tables(match[1], match[2]), markdown)


def tables(kind: str, name: str) -> str:
    """Return the settings of one registered class, or of all of a kind under headings."""
    if kind not in REGISTRIES:
        raise ConfigError(f"settings of a {kind!r}: use one of {', '.join(REGISTRIES)}")
    registry = REGISTRIES[kind]
    if name != "*":
        return _table(registry, name)
    return "\n\n".join(f"### `{each}`\n\n{_table(registry, each)}" for each in registry.names())


def included(name: str, page: str) -> str:
    """Return a file of the repository, its links as seen from `page`."""
    path = ROOT / name
    if not path.exists():
        return f"# {Path(name).stem.title()}\n\n`{name}` is not written yet."
    return LINK.sub(lambda match: _moved(match, path.parent, page), path.read_text("utf-8"))


def _table(registry: Registry[Any], name: str) -> str:
    owner = registry.get(name)
    rows = [_row(row) for row in settings(owner.Config) if row.key != registry.tag]
    first_line = (owner.__doc__ or "").strip().partition("\n")[0]
    if not rows:
        return f"{first_line} It has no settings."
    return "\n".join([f"{first_line}\n", "| key | default | what it is |", "|---|---|---|", *rows])


def _row(row: Setting) -> str:
    """Return three cells; six would be too narrow to read on a page."""
    small = "; ".join(
        part for part in (row.type, row.limits, row.range and f"search {row.range}") if part
    )
    default = LONG_DECIMAL.sub(lambda match: f"{float(match[0]):.4g}", row.default)
    text = f"{row.doc}<br><small>{html.escape(small)}</small>"
    cells = (cell.replace("|", "\\|") for cell in (f"`{row.key}`", default, text))
    return f"| {' | '.join(cells)} |"


def _moved(match: re.Match[str], folder: Path, page: str) -> str:
    """Return a link of an included file as a link of the page; only its text if it leaves docs."""
    mark, text, target = match.groups()
    if target.startswith(("#", "http:", "https:", "mailto:")):
        return match[0]
    file, hash_sign, anchor = target.partition("#")
    docs = ROOT / "docs"
    there = (folder / file).resolve()
    if not there.is_relative_to(docs):
        return text
    here = (docs / page).parent
    return f"{mark}[{text}]({os.path.relpath(there, here)}{hash_sign}{anchor})"
