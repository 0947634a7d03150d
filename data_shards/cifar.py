"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): ordinary classification, train and test images.

Read from the published Python archives (without running their pickles), or from archives of JPEG
files `train/<class>/*.jpg` and `test/<class>/*.jpg`. Training images are the split `base`, test
images `held_out`; classes are numbered by their sorted names.

Letters in shapes: N images.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from data_shards.image_files import files_digest
from data_shards.location import Location
from data_shards.safe_pickle import load_pickle, noted_array, read_pickle
from data_shards.sources import SOURCES, Sample, Source, SourceConfig
from data_shards.splits import HELD_OUT
from fsl.config import RuntimeOnly
from fsl.errors import ConfigError, ShardError

PARTS = {"train": "base", "test": HELD_OUT}
SIDE = 32
UNPACKED = {10: "cifar-10-batches-py", 100: "cifar-100-python"}


class CifarConfig(SourceConfig):
    """Settings of `Cifar`."""

    name: Literal["cifar"] = "cifar"
    root: Annotated[Path, RuntimeOnly]
    """Folder with the published archive (cifar-10-python.tar.gz, cifar-100-python.tar.gz), with
    what it unpacks to, or with cifar10_train_jpg.tar.gz and cifar10_test_jpg.tar.gz."""
    classes: Literal[10, 100] = 10
    """CIFAR-10 or CIFAR-100."""
    per_class: Annotated[int, Field(ge=1)] | None = None
    """Take only the first so many training images of each class; null: all."""


@SOURCES.register("cifar")
class Cifar(Source[CifarConfig]):
    """Small colour photographs of 10 or 100 classes, 32 x 32 pixels."""

    Config = CifarConfig

    def samples(self) -> list[Sample]:
        """Return all samples: training images, then test images, by class and number."""
        return self._samples

    def read(self, sample: Sample) -> bytes:
        """Return the JPEG of the archive, or the pixels as PNG."""
        return self._archive.read(sample.origin)

    def fingerprint(self) -> str:
        """Return a sha256 that changes with the images and their classes."""
        return self._archive.fingerprint()

    @cached_property
    def _archive(self) -> Archive:
        root = self.config.root.expanduser()
        name = f"cifar{self.config.classes}"
        jpegs = [root / f"{name}_{part}_jpg.tar.gz" for part in PARTS]
        if all(path.exists() for path in jpegs):
            return JpegArchive(jpegs)
        packed = root / f"cifar-{self.config.classes}-python.tar.gz"
        unpacked = root / UNPACKED[self.config.classes]
        for path in (unpacked, packed):
            if path.exists():
                return PickleArchive(path, self.config.classes)
        raise ConfigError(
            f"root: {root}: none of {packed.name}, {unpacked.name}, {jpegs[0].name} is there"
        )

    @cached_property
    def _samples(self) -> list[Sample]:
        found: list[Sample] = []
        taken: dict[str, int] = {}
        for part, class_name, origin, extra in sorted(self._archive.members(), key=_by_part):
            if part == "train":
                taken[class_name] = taken.get(class_name, 0) + 1
                if taken[class_name] > (self.config.per_class or taken[class_name]):
                    continue
            found.append(Sample(PARTS[part], class_name, origin, extra))
        return found


Member = tuple[str, str, str, dict[str, str]]
"""Part, class, origin, further fields."""


def _by_part(member: Member) -> tuple[bool, str, str]:
    part, class_name, origin, _ = member
    return part != "train", class_name, origin


class Archive(ABC):
    """Where the images are."""

    @abstractmethod
    def members(self) -> Iterator[Member]:
        """Yield all images."""

    @abstractmethod
    def read(self, origin: str) -> bytes:
        """Return an encoded image."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a sha256 that changes with the files."""


class JpegArchive(Archive):
    """Two tars of class folders; held in memory, as a packed tar has no random access."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for path in self.paths:
            try:
                with tarfile.open(path) as tar:
                    for member in tar:
                        stream = tar.extractfile(member) if member.isfile() else None
                        if stream is not None:
                            found[member.name] = stream.read()
            except (OSError, tarfile.TarError, EOFError) as error:
                raise ShardError(f"{path}: not a readable archive: {error}") from None
        return found

    def members(self) -> Iterator[Member]:
        """Yield the images of train/<class>/ and test/<class>/."""
        for name in self._contents:
            parts = name.split("/")
            if len(parts) == 3 and parts[0] in PARTS and name.endswith(".jpg"):
                yield parts[0], parts[1], name, {}

    def read(self, origin: str) -> bytes:
        """Return the file's bytes."""
        return self._contents[origin]

    def fingerprint(self) -> str:
        """Return the sha256 of names, sizes and times."""
        return files_digest(self.paths)


class Batches(NamedTuple):
    """Training images, then test images."""

    pixels: NDArray[np.uint8]  # (N, 3 * 32 * 32), one colour after the other
    labels: list[int]
    superclasses: list[int]  # empty for CIFAR-10
    train: int  # how many are training images


class Layout(NamedTuple):
    """What the files and keys of a data set are called."""

    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    superclasses: str
    superclass_names: str


LAYOUTS = {
    10: Layout(
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch", "batches.meta", "labels", "label_names", "", "",
    ),
    100: Layout(
        ("train",), "test", "meta", "fine_labels", "fine_label_names", "coarse_labels",
        "coarse_label_names",
    ),
}  # fmt: skip


class PickleArchive(Archive):
    """The published batches: arrays of pixels and lists of labels."""

    def __init__(self, path: Path, classes: int) -> None:
        self.path, self.layout = path, LAYOUTS[classes]

    def members(self) -> Iterator[Member]:
        """Yield the images of all batches."""
        batches, meta = self._batches, self._files[self.layout.meta]
        names = meta[self.layout.names]
        for number, label in enumerate(batches.labels):
            part = "train" if number < batches.train else "test"
            extra = {}
            if batches.superclasses:
                above = meta[self.layout.superclass_names]
                extra = {"superclass": str(above[batches.superclasses[number]])}
            yield part, str(names[label]), f"{part}/{number:05d}", extra

    def read(self, origin: str) -> bytes:
        """Return the image as PNG."""
        planes = self._batches.pixels[int(origin.rpartition("/")[2])].reshape(3, SIDE, SIDE)
        sink = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).save(sink, "PNG")
        return sink.getvalue()

    def fingerprint(self) -> str:
        """Return the sha256 of the images' parts, classes and superclasses, and of the pixels."""
        total = hashlib.sha256(json.dumps(list(self.members())).encode())
        total.update(self._batches.pixels.tobytes())
        return total.hexdigest()

    @cached_property
    def _batches(self) -> Batches:
        try:
            return self._read_batches()
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ShardError(
                f"{self.path}: not an archive of CIFAR ({error!r}); fetch it again"
            ) from None

    def _read_batches(self) -> Batches:
        layout = self.layout
        parts = [self._files[name] for name in (*layout.train, layout.test)]
        pixels = [noted_array(str(self.path), part["data"], "data") for part in parts]
        above = [label for part in parts for label in part.get(layout.superclasses, ())]
        labels = [label for part in parts for label in part[layout.labels]]
        stacked = np.concatenate(pixels)
        if stacked.shape != (len(labels), 3 * SIDE * SIDE) or stacked.dtype != np.uint8:
            raise ShardError(
                f"{self.path}: {stacked.shape} pixels for {len(labels)} labels; fetch it again"
            )
        names = self._files[layout.meta][layout.names]
        if not 0 <= min(labels) <= max(labels) < len(names):
            raise ShardError(f"{self.path}: {len(names)} names for more classes; fetch it again")
        return Batches(stacked, labels, above, len(labels) - len(pixels[-1]))

    @cached_property
    def _files(self) -> dict[str, dict[str, Any]]:
        """Return the pickles by name."""
        wanted = (*self.layout.train, self.layout.test, self.layout.meta)
        found: dict[str, dict[str, Any]] = {}
        if self.path.is_dir():
            for name in wanted:
                found[name] = load_pickle(Location.parse(self.path / name))
            return found
        try:
            with tarfile.open(self.path) as tar:
                for member in tar:
                    name = member.name.rpartition("/")[2]
                    stream = tar.extractfile(member) if name in wanted else None
                    if stream is not None:
                        found[name] = read_pickle(stream, f"{self.path}: {member.name}")  # type: ignore[arg-type]
        except (OSError, tarfile.TarError, EOFError) as error:
            raise ShardError(f"{self.path}: not a readable archive: {error}") from None
        missing = [name for name in wanted if name not in found]
        if missing:
            raise ShardError(f"{self.path}: {missing[0]} is missing in it; fetch it again")
        return found
