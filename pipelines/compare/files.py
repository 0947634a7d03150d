"""Writes a comparison as the sort of file that its name asks for."""

from __future__ import annotations

from pathlib import PurePosixPath

from data_shards.location import Location
from pipelines.compare.chart import png
from pipelines.compare.comparison import Comparison
from pipelines.compare.numbers import as_json
from pipelines.compare.page import html
from pipelines.compare.table import markdown


def write(comparison: Comparison, place: Location) -> None:
    """Write .html, .png, .md or .json."""
    suffix = PurePosixPath(place.path).suffix
    if suffix == ".png":
        place.write_bytes(png(comparison))
        return
    texts = {".html": html, ".md": markdown, ".json": as_json}
    place.write_text(texts[suffix](comparison))
