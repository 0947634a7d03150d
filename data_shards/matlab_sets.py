"""Data sets whose labels come as MATLAB files: SVHN and Oxford Flowers-102.

Training images are the split `base`, test images `held_out`; of neither set have the authors
published classes for few-shot learning.
"""

from __future__ import annotations

import io
import zlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from data_shards.image_files import ImageFiles, ImageFilesConfig, files_digest
from data_shards.sources import SOURCES, Sample, Source, SourceConfig
from data_shards.splits import HELD_OUT
from fsl.config import RuntimeOnly
from fsl.errors import ConfigError, ShardError

UNREADABLE = (MatReadError, zlib.error)


class SvhnConfig(SourceConfig):
    """Settings of `Svhn`."""

    name: Literal["svhn"] = "svhn"
    root: Annotated[Path, RuntimeOnly]
    """Folder with train_32x32.mat and test_32x32.mat as published."""
    extra: bool = False
    """Train on extra_32x32.mat as well: 531,131 easier images beside 73,257."""


@SOURCES.register("svhn")
class Svhn(Source[SvhnConfig]):
    """Street View House Numbers, cropped digits, 32 x 32 pixels (Netzer et al., 2011)."""

    Config = SvhnConfig

    def samples(self) -> list[Sample]:
        """Return all samples, file by file."""
        return [
            Sample(HELD_OUT if part == "test" else "base", str(digit), f"{part}/{number:06d}")
            for part in self._parts
            for number, digit in enumerate(self._arrays[part][1].tolist())
        ]

    def read(self, sample: Sample) -> bytes:
        """Return the image as PNG."""
        part, _, number = sample.origin.partition("/")
        sink = io.BytesIO()
        Image.fromarray(self._arrays[part][0][int(number)]).save(sink, "PNG")
        return sink.getvalue()

    def fingerprint(self) -> str:
        """Return the sha256 of the files' names, sizes and times."""
        return files_digest([self._path(part) for part in self._parts])

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("train", "extra", "test") if self.config.extra else ("train", "test")

    def _path(self, part: str) -> Path:
        return self.config.root.expanduser() / f"{part}_32x32.mat"

    @cached_property
    def _arrays(self) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Return part -> pixels (N, 32, 32, 3), digits (N,)."""
        found = {}
        for part in self._parts:
            path = self._path(part)
            content = load_matlab(path, ("X", "y"))
            pixels = np.ascontiguousarray(np.moveaxis(content["X"], -1, 0))
            labels = content["y"].astype(np.int64).ravel() % 10  # the digit 0 has label 10
            if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 32, 32, 3):
                raise ShardError(
                    f"{path}: {pixels.shape} pixels for {len(labels)} labels; fetch it again"
                )
            found[part] = (pixels, labels)
        return found


class FlowersConfig(ImageFilesConfig):
    """Settings of `Flowers`. `root` holds jpg/, imagelabels.mat and setid.mat as published."""

    name: Literal["flowers102"] = "flowers102"


@SOURCES.register("flowers102")
class Flowers(ImageFiles[FlowersConfig]):
    """Oxford Flowers-102: training and validation images are `base` (Nilsback, Zisserman, 2008)."""

    Config = FlowersConfig

    def samples(self) -> list[Sample]:
        """Return all samples, by split and number."""
        return self._samples

    @cached_property
    def _samples(self) -> list[Sample]:
        labels = load_matlab(self.root / "imagelabels.mat", ("labels",))["labels"].ravel()
        sets = load_matlab(self.root / "setid.mat", ("trnid", "valid", "tstid"))
        found = []
        for part, split in (("trnid", "base"), ("valid", "base"), ("tstid", HELD_OUT)):
            for number in np.sort(sets[part].ravel()).tolist():
                if not 1 <= number <= len(labels):
                    raise ShardError(
                        f"{self.root / 'setid.mat'}: image {number} of {part}, but "
                        f"imagelabels.mat has {len(labels)}; fetch both again"
                    )
                origin = f"jpg/image_{number:05d}.jpg"
                found.append(Sample(split, f"{labels[number - 1]:03d}", origin))
        return found

    def fingerprint(self) -> str:
        """Return the sha256 of names, sizes and times of the lists and images."""
        lists = [self.root / "imagelabels.mat", self.root / "setid.mat"]
        return files_digest([*lists, *(self.root / sample.origin for sample in self.samples())])


def load_matlab(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return the named arrays of a MATLAB file; nothing in such a file is run.

    Raises:
        ConfigError: there is no such file.
        ShardError: it is not readable, or an array is missing.
    """
    if not path.is_file():
        raise ConfigError(f"root: {path.parent}: {path.name} is not there")
    try:
        content: dict[str, NDArray[Any]] = loadmat(path, variable_names=names)
    except (*UNREADABLE, OSError, ValueError, TypeError, NotImplementedError) as error:
        raise ShardError(f"{path}: not a readable MATLAB file: {error}; fetch it again") from None
    for name in names:
        if not isinstance(content.get(name), np.ndarray) or content[name].dtype == object:
            raise ShardError(f"{path}: has no array {name!r}; fetch it again")
    return content
