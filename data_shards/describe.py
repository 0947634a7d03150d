"""What is in a shard set: a table for people, and a contact sheet to look at."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from data_shards.location import Location
from data_shards.manifest import ShardSet, Split
from data_shards.pillow_images import eight_bits
from data_shards.reader import Reader
from fsl.errors import ConfigError

COLUMNS = (
    "split", "classes", "images", "per class", "pixels", "formats", "image MB", "shards", "shard MB"
)  # fmt: skip
GAP, MARGIN, HEADING = 4, 8, 16
SHEET_CLASSES, SHEET_IMAGES, LARGEST = 8, 12, 128


def describe(shard_set: ShardSet) -> str:
    """Return a table with one line per split."""
    rows = [COLUMNS, *(_row(shard_set.split(name)) for name in shard_set.splits)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    made = shard_set.source.get("settings", shard_set.source).get("name", "unknown")
    seed = "unknown" if shard_set.seed is None else str(shard_set.seed)
    extra = ", ".join(shard_set.extra_names) or "none"
    return "\n".join(
        [
            f"{shard_set.root}: {len(shard_set)} images, digest {shard_set.digest[:12]}",
            f"source {made}, packing seed {seed}, additional columns: {extra}",
            "",
            *lines,
        ]
    )


def contact_sheet(shard_set: ShardSet, seed: int = 0) -> bytes:
    """Return a PNG: a row per class, some classes of every split, drawn at random."""
    if seed < 0:
        raise ConfigError(f"seed={seed}: must be 0 or more")
    strips = [(name, _strips(shard_set.split(name), seed)) for name in shard_set.splits]
    width = max(strip.width for _, some in strips for strip in some) + 2 * MARGIN
    height = MARGIN + sum(HEADING + sum(s.height + GAP for s in some) for _, some in strips)
    sheet = Image.new("RGB", (max(width, 320), height + MARGIN), (40, 40, 40))
    pen = ImageDraw.Draw(sheet)
    top = MARGIN
    for name, some in strips:
        classes = len(shard_set.class_names[name])
        pen.text((MARGIN, top), f"{name}: {len(some)} of {classes} classes", (255, 255, 255))
        top += HEADING
        for strip in some:
            sheet.paste(strip, (MARGIN, top))
            top += strip.height + GAP
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()


def write_contact_sheet(shard_set: ShardSet, target: Location, seed: int = 0) -> None:
    """Write the contact sheet to a file."""
    target.write_bytes(contact_sheet(shard_set, seed))


def _row(split: Split) -> tuple[str, ...]:
    counts = split.class_rows().counts
    smallest, largest = split.image_sizes.min(0), split.image_sizes.max(0)
    low, high = (f"{width}x{height}" for width, height in (smallest, largest))
    return (
        split.name,
        str(len(split.class_names)),
        str(len(split)),
        _between(str(counts.min()), str(counts.max())),
        _between(low, high),
        ",".join(sorted(set(split.extensions))),
        f"{split.sizes.sum(dtype=np.int64) / 1e6:.1f}",
        str(len(split.files)),
        f"{sum(file.bytes for file in split.files) / 1e6:.1f}",
    )


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low}..{high}"


def _strips(split: Split, seed: int) -> list[Image.Image]:
    """Return one strip of images for each of some classes."""
    rng = np.random.default_rng(seed)
    by_class = split.class_rows()
    classes = rng.permutation(np.flatnonzero(by_class.counts))[:SHEET_CLASSES]
    reader = Reader(split)
    return [
        _strip(reader.read(rng.permutation(by_class.of(int(label)))[:SHEET_IMAGES]))
        for label in classes
    ]


def _strip(contents: list[bytes]) -> Image.Image:
    images = []
    for content in contents:
        image = eight_bits(Image.open(io.BytesIO(content))).convert("RGB")
        image.thumbnail((LARGEST, LARGEST))
        images.append(image)
    width = sum(image.width + GAP for image in images) - GAP
    strip = Image.new("RGB", (width, max(image.height for image in images)), (40, 40, 40))
    left = 0
    for image in images:
        strip.paste(image, (left, 0))
        left += image.width + GAP
    return strip
