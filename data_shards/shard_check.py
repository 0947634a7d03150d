"""Every fault of one shard: its bytes against the index, its headers, images and labels."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_shards.decode import decode_image
from data_shards.foreign import group, label_text
from data_shards.location import Location
from data_shards.manifest import ShardFile, Split
from data_shards.tar_scan import Member, scan_tar
from fsl.errors import ShardError, StorageError


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    shard: str
    """Name of the tar, or of the index."""
    key: str | None
    """Sample it concerns, if one."""
    offset: int | None
    """Byte of the shard, where known."""
    sentence: str
    """What was found, and what was expected."""

    def __str__(self) -> str:
        sample = f": sample {self.key!r}" if self.key is not None else ""
        place = f" at byte {self.offset}" if self.offset is not None else ""
        return f"{self.shard}{sample}{place}: {self.sentence}"


SeenImage = Callable[[Split, int, bytes], None]


class ShardChecker:
    """Checks one shard of a split.

    Args:
        split: the split.
        number: which of its shards.
        deep: also decode every image and compare every label.
        seen: called with split, row and bytes of each undamaged image.
    """

    def __init__(self, split: Split, number: int, deep: bool, seen: SeenImage) -> None:
        self.split, self.deep, self.seen = split, deep, seen
        self.file: ShardFile = split.files[number]
        self.location: Location = split.shard_files[number]
        self.rows = np.flatnonzero(split.shards == number).tolist()
        self.faults: list[Fault] = []

    def run(self) -> list[Fault]:
        """Return all faults."""
        try:
            if not self.location.exists():
                self._fault(f"is missing; the index says it holds {self.file.samples} samples")
                return self.faults
            if not self.location.size():
                self._fault(f"is empty; the index says {self.file.samples} samples")
                return self.faults
            with (
                _on_disk(self.location) as path,
                path.open("rb") as stream,
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                self._contents(path, data)
        except (StorageError, OSError) as error:
            self._fault(f"cannot be read: {error}")
        return self.faults

    def _contents(self, path: Path, data: mmap.mmap) -> None:
        changed = hashlib.sha256(data).hexdigest() != self.file.sha256
        if len(data) != self.file.bytes:
            kind = "truncated: " if len(data) < self.file.bytes else ""
            self._fault(f"{kind}has {len(data)} bytes, the index says {self.file.bytes}")
        fields_of = self._members(path) if changed or self.deep else {}
        whole = self._compare(data)
        if self.deep:
            self._decode_all(data, whole)
            self._compare_labels(data, fields_of, whole)
        if changed and not self.faults:
            self._fault("sha256 differs from the index, though all images are as written")

    def _members(self, path: Path) -> dict[str, dict[str, Member]]:
        """Return the samples that a tar reader finds, noting damage it would pass over."""
        try:
            fields_of = dict(group(scan_tar(path, ""), ""))
        except ShardError as error:
            self._fault(str(error).removeprefix(": "))
            return {}
        if len(fields_of) != self.file.samples:
            self._fault(f"holds {len(fields_of)} samples, the index says {self.file.samples}")
        return fields_of

    def _compare(self, data: mmap.mmap) -> list[int]:
        """Return the rows whose bytes are as the index says; report the others."""
        whole, lost = [], []
        for row in self.rows:
            content = self._content(data, row)
            if len(content) < self.split.sizes[row]:
                lost.append(row)
            elif zlib.crc32(content) != self.split.crc32[row]:
                blank = " (all zero)" if not any(content) else ""
                found = f"crc32 {zlib.crc32(content):08x}{blank}"
                self._fault(f"{found}, the index says {self.split.crc32[row]:08x}", row)
            else:
                whole.append(row)
                self.seen(self.split, row, content)
        if lost:
            self._fault(f"lies beyond the end, as do {len(lost) - 1} more samples", lost[0])
        return whole

    def _decode_all(self, data: mmap.mmap, rows: list[int]) -> None:
        def decode(row: int) -> tuple[int, int] | str:
            try:
                pixels = decode_image(self._content(data, row), "rgb", "")
            except ShardError as error:
                return str(error).removeprefix(": ")
            return int(pixels.shape[2]), int(pixels.shape[1])

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for row, found in zip(rows, pool.map(decode, rows), strict=True):
                width, height = self.split.image_sizes[row].tolist()
                if isinstance(found, str):
                    self._fault(found, row)
                elif found != (width, height):
                    shape = f"{found[0]} x {found[1]} pixels"
                    self._fault(f"{shape}, the index says {width} x {height}", row)

    def _compare_labels(
        self, data: mmap.mmap, fields_of: dict[str, dict[str, Member]], rows: list[int]
    ) -> None:
        for row in rows:
            fields = fields_of.get(self.split.key(row), {})
            if "cls" not in fields and self.split.shard_set.cls_holds == "number":
                continue
            label = int(self.split.labels[row])
            name = self.split.class_names[label]
            expected = name if self.split.shard_set.cls_holds == "name" else str(label)
            if not fields:
                continue  # the tar's own damage is reported already
            try:
                found = label_text(fields, data, "")
            except ShardError as error:
                self._fault(str(error).removeprefix(": "), row)
                continue
            if found != expected:
                self._fault(f"its label member says {found!r}, the index {expected!r}", row)

    def _content(self, data: mmap.mmap, row: int) -> bytes:
        start = int(self.split.offsets[row])
        return data[start : start + int(self.split.sizes[row])]

    def _fault(self, sentence: str, row: int | None = None) -> None:
        key = self.split.key(row) if row is not None else None
        offset = int(self.split.offsets[row]) if row is not None else None
        self.faults.append(Fault(self.file.name, key, offset, sentence))


@contextmanager
def _on_disk(location: Location) -> Iterator[Path]:
    """Yield the file as a local path, fetching it when it lies elsewhere."""
    if location.local is not None:
        yield location.local
        return
    with tempfile.TemporaryDirectory(prefix="fewshot-check-") as directory:
        copy = Path(directory) / location.name
        location.download(copy)
        yield copy
