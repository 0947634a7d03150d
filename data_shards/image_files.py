"""Images that lie on disk as files: finding, reading, shrinking them."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from PIL import Image
from pydantic import Field

from data_shards.pillow_images import JPEGS, UNREADABLE, eight_bits, upright
from data_shards.sources import Sample, Source, SourceConfig
from fsl.config import RuntimeOnly
from fsl.errors import ConfigError, ShardError

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageFilesConfig(SourceConfig):
    """Settings of every source that reads image files."""

    root: Annotated[Path, RuntimeOnly]
    """Directory of the images. Its content counts (see `fingerprint`), not its place."""
    resize: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Side in pixels to which the shorter edge of larger images is reduced; null passes the files'
    bytes through unchanged. Reduced images are turned upright as their EXIF says; all others are
    taken as they are stored."""
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
            status = _status(self.root / sample.origin)
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


def _status(path: Path) -> os.stat_result:
    """Return size and time of a file that can be read and has a name that can be written down."""
    try:
        status = os.stat(path)
        str(path).encode()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; mend or remove it") from None
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise ConfigError(f"{shown}: its name is not UTF-8; rename it") from None
    return status


def _files(directory: Path) -> Iterator[Path]:
    """Yield the files below a directory, each folder once; hidden ones are left out."""
    visited = {_identity(directory)}
    for folder, inside, names in os.walk(directory, onerror=_refuse, followlinks=True):
        shown = sorted(name for name in inside if not name.startswith("."))
        inside.clear()
        for name in shown:
            identity = _identity(Path(folder, name))
            if identity not in visited:
                visited.add(identity)
                inside.append(name)
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _identity(path: Path) -> tuple[int, int]:
    status = _status(path)
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> None:
    raise ConfigError(
        f"{error.filename}: cannot be read: {error.strerror}; mend its rights or move it away"
    )


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def directories(path: Path) -> list[str]:
    """Return the names of the directories in `path`, sorted; hidden ones are left out."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"root: {path}: cannot be read: {error.strerror}") from None


def class_samples(
    root: Path, directory: str, split: str, class_name: str, others: Counter[str]
) -> Iterable[Sample]:
    """Yield the samples of one class directory; refuses one without images.

    Args:
        root: directory that origins are relative to.
        directory: that of the class, relative to `root`.
        split: its split.
        class_name: its class.
        others: where other files are counted by their suffix.
    """
    files = list(_files(root / directory))
    paths = sorted(path for path in files if _is_image(path.name))
    if not paths:
        raise ConfigError(
            f"{root / directory}: no images ({', '.join(SUFFIXES)}) of class {class_name!r}"
        )
    others.update(path.suffix.lower() for path in files if not _is_image(path.name))
    for path in paths:
        yield Sample(split, class_name, path.relative_to(root).as_posix())


def report_left_out(root: Path, above: Iterable[str], others: Counter[str]) -> None:
    """Log how many files the source passes over, if any.

    Args:
        root: directory of the source.
        above: directories that hold class folders, relative to `root`.
        others: files in class folders that are no images, by suffix.
    """
    names = [name for folder in above for name in os.listdir(root / folder)]
    images = sum(_is_image(name) and not name.startswith(".") for name in names)
    parts = []
    if others:
        most = ", ".join(f"{suffix or 'none'} {n}" for suffix, n in others.most_common(3))
        parts.append(f"{others.total()} files with other suffixes ({most})")
    if images:
        parts.append(f"{images} images outside class folders")
    if parts:
        logger.warning("%s: %s are left out", root, " and ".join(parts))


def reduced(content: bytes, edge: int, quality: int, where: str) -> bytes:
    """Return the image upright, its shorter edge at most `edge`; smaller ones unchanged."""
    try:
        with Image.open(io.BytesIO(content)) as stored:
            if min(stored.size) <= edge:
                return content
            scale = edge / min(stored.size)
            jpeg = stored.format in JPEGS
            image = eight_bits(upright(stored))
            modes = ("RGB", "L") if jpeg else ("RGB", "L", "RGBA")
            pixels = image if image.mode in modes else image.convert("RGB")
            size = tuple(max(edge, round(side * scale)) for side in pixels.size)
            pixels = pixels.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    except UNREADABLE as error:
        raise ShardError(f"{where}: not a readable image: {error}") from None
    except Image.DecompressionBombError as error:
        raise ShardError(f"{where}: {error}; shrink it by other means or leave it out") from None
    sink = io.BytesIO()
    if jpeg:
        pixels.save(sink, "JPEG", quality=quality)
    else:
        pixels.save(sink, "PNG")
    return sink.getvalue()
