"""Images that lie on disk as files: finding, reading, shrinking them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

from PIL import Image, UnidentifiedImageError
from pydantic import Field

from data_shards.sources import Sample, Source, SourceConfig
from fsl.config import RuntimeOnly
from fsl.errors import ConfigError, ShardError

SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageFilesConfig(SourceConfig):
    """Settings of every source that reads image files."""

    root: Annotated[Path, RuntimeOnly]
    """Directory of the images. Its content counts (see `fingerprint`), not its place."""
    resize: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Side in pixels to which the shorter edge of larger images is reduced; null passes the files'
    bytes through unchanged."""
    quality: Annotated[int, Field(ge=50, le=100)] = 95
    """JPEG quality of images that were reduced."""


F = TypeVar("F", bound=ImageFilesConfig)


class ImageFiles(Source[F]):
    """Base of sources whose origins are paths relative to `root`."""

    @property
    def root(self) -> Path:
        """The directory of the images."""
        return self.config.root.expanduser()

    def read(self, sample: Sample) -> bytes:
        """Return the file's bytes, or a reduced image."""
        path = self.root / sample.origin
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ShardError(f"{path}: cannot be read: {error.strerror}") from None
        if self.config.resize is None:
            return content
        return reduced(content, self.config.resize, self.config.quality, str(path))

    def fingerprint(self) -> str:
        """Return the sha256 of names, splits, further fields, sizes and times of all files."""
        total = hashlib.sha256()
        for sample in self.samples():
            status = os.stat(self.root / sample.origin)
            extra = [part for field in sorted(sample.extra.items()) for part in field]
            fields = (sample.split, sample.class_name, sample.origin, *extra)
            total.update("\0".join(fields).encode())
            total.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return total.hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """Return the sha256 of names, sizes and times of files."""
    total = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"root: {path} is not there")
        status = path.stat()
        total.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return total.hexdigest()


def image_paths(directory: Path) -> list[Path]:
    """Return the image files below a directory, sorted; hidden ones are left out."""
    found = []
    for folder, inside, names in os.walk(directory, followlinks=True):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        found += [
            Path(folder, name)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def directories(path: Path) -> list[str]:
    """Return the names of the directories in `path`, sorted; hidden ones are left out."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"root: {path}: cannot be read: {error.strerror}") from None


def class_samples(root: Path, directory: str, split: str, class_name: str) -> Iterable[Sample]:
    """Yield the samples of one class directory; refuses one without images."""
    paths = image_paths(root / directory)
    if not paths:
        raise ConfigError(
            f"{root / directory}: no images ({', '.join(SUFFIXES)}) of class {class_name!r}"
        )
    for path in paths:
        yield Sample(split, class_name, path.relative_to(root).as_posix())


def reduced(content: bytes, edge: int, quality: int, where: str) -> bytes:
    """Return the image with its shorter edge at most `edge`; smaller ones unchanged."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if min(image.size) <= edge:
                return content
            scale = edge / min(image.size)
            size = tuple(max(edge, round(side * scale)) for side in image.size)
            jpeg = image.format == "JPEG"
            modes = ("RGB", "L") if jpeg else ("RGB", "L", "RGBA")
            pixels = image if image.mode in modes else image.convert("RGB")
            pixels = pixels.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise ShardError(f"{where}: not a readable image: {error}") from None
    sink = io.BytesIO()
    if jpeg:
        pixels.save(sink, "JPEG", quality=quality)
    else:
        pixels.save(sink, "PNG")
    return sink.getvalue()
