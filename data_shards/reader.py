"""Images by row number: memory-mapped local tars, byte ranges of remote ones.

No tar is parsed: the index says where each image lies. Against webdataset's stream reader this is
about 45 times cheaper per sample, and any order costs the same (`benchmarks/reader_throughput.py`).
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_shards.local_files import LocalFiles
from data_shards.manifest import Split
from data_shards.remote_ranges import RemoteRanges
from fsl.errors import ShardError

log = logging.getLogger(__name__)

CACHE_BYTES = 256 << 20
WARNINGS = 10


class Reader:
    """Reads samples of one split. Opens files lazily in each process, so it can be pickled.

    Args:
        split: what to read.
        verify: compare each image with its checksum (2 % of the time of decoding it).
        on_error: "raise" stops at a damaged sample; "skip" puts `b""` in its place, counts it in
            `skipped` and logs a warning.
        cache_bytes: memory that images of a remote storage may take, per process.
    """

    def __init__(
        self,
        split: Split,
        verify: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.split, self.verify, self.on_error = split, verify, on_error
        self.cache_bytes = cache_bytes
        self.skipped = 0
        self._source: LocalFiles | RemoteRanges | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}

    def read(self, rows: Sequence[int] | NDArray[np.integer]) -> list[bytes]:
        """Return the encoded image of each row, in the order of `rows`.

        Raises:
            ShardError: a missing or truncated shard, or bytes that differ from those written,
                with shard, key, offset and what was expected. Not with `on_error="skip"`.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self.split)):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {len(self.split)}")
        shards, offsets, sizes = (
            column[rows].tolist()
            for column in (self.split.shards, self.split.offsets, self.split.sizes)
        )
        images = self._open().read(shards, offsets, sizes)
        expected = self.split.crc32[rows].tolist() if self.verify else None
        for i, image in enumerate(images):
            if isinstance(image, ShardError):
                images[i] = self._damaged(int(rows[i]), str(image))
            elif expected is not None and zlib.crc32(image) != expected[i]:
                found = f"crc32 {zlib.crc32(image):08x}, the index says {expected[i]:08x}"
                images[i] = self._damaged(int(rows[i]), found)
        return [image for image in images if isinstance(image, bytes)]

    def where(self, row: int) -> str:
        """Return shard, key and offset of a row, for messages."""
        name = self.split.files[self.split.shards[row]].name
        return f"{name}: sample {self.split.key(row)!r} at byte {self.split.offsets[row]}"

    def _damaged(self, row: int, fault: str) -> bytes:
        message = f"{self.where(row)}: {fault}"
        if self.on_error == "raise":
            raise ShardError(
                f"{message}; run `fewshot shards check {self.split.shard_set.root}` for all "
                "faults, then restore or write the shard again"
            )
        self.skipped += 1
        if self.skipped <= WARNINGS:
            more = "; further ones are only counted" if self.skipped == WARNINGS else ""
            log.warning("skipped damaged sample %d: %s%s", self.skipped, message, more)
        return b""

    def _open(self) -> LocalFiles | RemoteRanges:
        if self._source is None:
            sizes = [file.bytes for file in self.split.files]
            if self.split.shard_set.root.local is not None:
                self._source = LocalFiles(self.split.shard_files, sizes)
            else:
                self._source = RemoteRanges(self.split.shard_files, sizes, self.cache_bytes)
        return self._source
