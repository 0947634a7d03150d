"""Omniglot from its published zips (Lake, Salakhutdinov, Tenenbaum; Science 350, 2015).

Twenty drawings of each character; the split is by alphabet. The small "minimal" background zips
share alphabets, whose images are taken once.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from data_shards.sources import SOURCES, Sample, Source, SourceConfig
from data_shards.splits import SPLITS, check_disjoint
from fsl.config import RuntimeOnly
from fsl.errors import ConfigError, ShardError, did_you_mean

FULL_SETS = ("images_background", "images_evaluation")
SMALL_SETS = ("images_background_small1", "images_background_small2")
SMALL_SPLIT = {
    "base": ("Greek", "Japanese_(katakana)", "Korean", "Latin"),
    "val": ("Early_Aramaic",),
    "novel": ("Balinese", "Sanskrit", "Tagalog"),
}


class OmniglotConfig(SourceConfig):
    """Settings of `Omniglot`."""

    name: Literal["omniglot"] = "omniglot"
    root: Annotated[Path, RuntimeOnly]
    """Folder with images_background.zip and images_evaluation.zip, or with the two
    images_background_small zips; unpacked folders of these names do as well."""
    base: list[str] | None = None
    """Alphabets of the base classes. Default, if none of the three is given: a fixed split of the
    small sets; of the full set the evaluation alphabets are novel and every sixth background
    alphabet is val."""
    val: list[str] | None = None
    """Alphabets of the validation classes."""
    novel: list[str] | None = None
    """Alphabets of the novel classes."""
    size: Annotated[int, Field(ge=8, le=105)] | None = None
    """Side in pixels to which images are reduced by area, with white ink on black; null keeps the
    files (105 pixels, black on white)."""


class Drawing(NamedTuple):
    """Where an image is, and its CRC (0 for unpacked folders)."""

    container: Path
    member: str
    crc: int


@SOURCES.register("omniglot")
class Omniglot(Source[OmniglotConfig]):
    """Handwritten characters of many alphabets; a class is `Alphabet/characterNN`."""

    Config = OmniglotConfig

    def samples(self) -> list[Sample]:
        """Return all samples, by split and path."""
        return self._samples

    def read(self, sample: Sample) -> bytes:
        """Return the PNG, as published or reduced and inverted."""
        drawing = self._drawings[sample.origin]
        try:
            if drawing.container.is_dir():
                content = (drawing.container / drawing.member).read_bytes()
            else:
                content = self._zips[drawing.container].read(drawing.member)
        except (OSError, zipfile.BadZipFile) as error:
            raise ShardError(
                f"{drawing.container}: {drawing.member}: cannot be read: {error}"
            ) from None
        return content if self.config.size is None else white_on_black(content, self.config.size)

    def fingerprint(self) -> str:
        """Return the sha256 of all names and checksums."""
        total = hashlib.sha256()
        for origin, drawing in sorted(self._drawings.items()):
            total.update(f"{origin}\0{drawing.crc}\n".encode())
        return total.hexdigest()

    @cached_property
    def _samples(self) -> list[Sample]:
        split_of = {name: split for split, names in self._split().items() for name in names}
        found = []
        for origin in sorted(self._drawings):
            alphabet, character, _ = origin.split("/")
            if alphabet in split_of:
                extra = {"alphabet": alphabet}
                found.append(Sample(split_of[alphabet], f"{alphabet}/{character}", origin, extra))
        return sorted(found, key=lambda sample: SPLITS.index(sample.split))

    def _split(self) -> dict[str, list[str]]:
        """Return split -> alphabets."""
        known = sorted({origin.partition("/")[0] for origin in self._drawings})
        given = {split: getattr(self.config, split) for split in SPLITS}
        if all(names is None for names in given.values()):
            return self._default_split(known)
        for split, names in given.items():
            for name in names or ():
                if name not in known:
                    raise ConfigError(
                        f"{split}: no alphabet {name!r}{did_you_mean(name, known)}; "
                        f"{self.config.root} has: {', '.join(known)}"
                    )
        chosen = {split: list(names) for split, names in given.items() if names}
        check_disjoint(chosen, "base, val, novel")
        return chosen

    def _default_split(self, known: list[str]) -> dict[str, list[str]]:
        small = {name for names in SMALL_SPLIT.values() for name in names}
        if set(known) == small:
            return {split: list(names) for split, names in SMALL_SPLIT.items()}
        sets = {
            name: sorted(
                {
                    origin.partition("/")[0]
                    for origin, drawing in self._drawings.items()
                    if drawing.container.stem == name
                }
            )
            for name in FULL_SETS
        }
        background, evaluation = (sets[name] for name in FULL_SETS)
        if not background or not evaluation:
            raise ConfigError(
                f"root: {self.config.root}: there is a default split only with both full or both "
                f"small sets; name the alphabets in base, val, novel; it has: {', '.join(known)}"
            )
        val = background[5::6]
        return {
            "base": [name for name in background if name not in val],
            "val": val,
            "novel": evaluation,
        }

    @cached_property
    def _containers(self) -> list[Path]:
        root = self.config.root.expanduser()
        for sets in (FULL_SETS, SMALL_SETS):
            candidates = [[root / f"{name}.zip", root / name] for name in sets]
            found = [next((p for p in pair if p.exists()), None) for pair in candidates]
            if any(found):
                return [path for path in found if path is not None]
        raise ConfigError(
            f"root: {root}: none of {', '.join(f'{name}.zip' for name in FULL_SETS + SMALL_SETS)} "
            "is there"
        )

    @cached_property
    def _zips(self) -> dict[Path, zipfile.ZipFile]:
        opened = {}
        for path in self._containers:
            if not path.is_dir():
                try:
                    opened[path] = zipfile.ZipFile(path)
                except (OSError, zipfile.BadZipFile) as error:
                    raise ShardError(f"{path}: not a readable zip: {error}") from None
        return opened

    @cached_property
    def _drawings(self) -> dict[str, Drawing]:
        """Return `Alphabet/characterNN/file.png` -> where it is."""
        found: dict[str, Drawing] = {}
        for container in self._containers:
            for member, crc in self._members(container):
                parts = member.split("/")
                if len(parts) < 3 or not member.endswith(".png") or "__MACOSX" in member:
                    continue
                origin = "/".join(parts[-3:])
                other = found.setdefault(origin, Drawing(container, member, crc))
                if other.crc != crc:
                    raise ShardError(
                        f"{origin} differs between {other.container} and {container}; "
                        "download the sets again"
                    )
        return found

    def _members(self, container: Path) -> list[tuple[str, int]]:
        if not container.is_dir():
            return [(info.filename, info.CRC) for info in self._zips[container].infolist()]
        paths = sorted(container.rglob("*.png"))
        return [
            (path.relative_to(container).as_posix(), zlib.crc32(path.read_bytes()))
            for path in paths
        ]


def white_on_black(content: bytes, size: int) -> bytes:
    """Return a grey PNG of the inverted image, averaged over areas to `size` pixels a side."""
    with Image.open(io.BytesIO(content)) as image:
        ink = 255 - np.asarray(image.convert("L"))
    sink = io.BytesIO()
    Image.fromarray(ink).resize((size, size), Image.Resampling.BOX).save(sink, "PNG")
    return sink.getvalue()
