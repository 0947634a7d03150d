"""Byte ranges of local files: memory maps, or plain reads where a map is refused."""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence

from data_shards.location import Location
from fsl.errors import ShardError

MOST_OPEN = 256  # each map holds a file descriptor; 1024 is a usual limit


class LocalFiles:
    """Files kept open, the least recently used closed first.

    Args:
        files: where they are, on a local disk.
        sizes: bytes that each must have.
    """

    def __init__(self, files: Sequence[Location], sizes: Sequence[int]) -> None:
        self._files, self._sizes = files, sizes
        self._open: OrderedDict[int, mmap.mmap | int | ShardError] = OrderedDict()

    def read(
        self, files: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]
    ) -> list[bytes | ShardError]:
        """Return the bytes of each range, or the error that befell it."""
        found: list[bytes | ShardError] = []
        for file, offset, size in zip(files, offsets, sizes, strict=True):
            source = self._source(file)
            if isinstance(source, ShardError):
                found.append(source)
                continue
            if isinstance(source, int):
                data = os.pread(source, size, offset)
            else:
                data = source[offset : offset + size]
            if len(data) == size:
                found.append(data)
            else:
                found.append(ShardError(f"{len(data)} of {size} bytes are there; truncated"))
        return found

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._close_oldest()

    def __del__(self) -> None:
        self.close()

    def _source(self, file: int) -> mmap.mmap | int | ShardError:
        source = self._open.get(file)
        if source is None:
            if len(self._open) >= MOST_OPEN:
                self._close_oldest()
            source = self._open[file] = self._opened(file)
        else:
            self._open.move_to_end(file)
        return source

    def _opened(self, file: int) -> mmap.mmap | int | ShardError:
        path = self._files[file].path
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            return ShardError(f"the shard {path} cannot be opened: {error.strerror}")
        size = os.fstat(handle).st_size
        if size != self._sizes[file]:
            os.close(handle)
            return ShardError(
                f"the shard {path} has {size} bytes, the index says {self._sizes[file]}"
            )
        try:
            mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # network and overlay file systems may refuse maps
            return handle
        os.close(handle)
        return mapped

    def _close_oldest(self) -> None:
        _, source = self._open.popitem(last=False)
        if isinstance(source, int):
            os.close(source)
        elif not isinstance(source, ShardError):
            source.close()
