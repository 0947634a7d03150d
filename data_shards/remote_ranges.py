"""Byte ranges of files on an object store: neighbours merged, several requests at once, cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from data_shards.location import Location
from fsl.errors import ShardError, StorageError

MERGE_GAP = 64 << 10  # a request costs as much time as some 100 KB of transfer
MERGE_MOST = 8 << 20
REQUESTS = 8  # at the same time

Range = tuple[int, int, int]  # file, offset, size


class Request(NamedTuple):
    """One read that covers several wanted ranges."""

    file: int
    start: int
    stop: int
    ranges: list[Range]


class RemoteRanges:
    """Reads ranges of remote files, keeping the most recent ones.

    With few-shot data the cache usually holds the whole set, so only the first epoch waits.

    Args:
        files: where they are.
        sizes: bytes that each must have.
        cache_bytes: limit of what is kept.
    """

    def __init__(self, files: Sequence[Location], sizes: Sequence[int], cache_bytes: int) -> None:
        self._files, self._sizes, self._cache_bytes = files, sizes, cache_bytes
        self._streams: dict[int, Any] = {}
        self._cache: OrderedDict[Range, bytes] = OrderedDict()
        self._cached = 0
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="shard-ranges")
        self.requests = 0

    def read(
        self, files: Sequence[int], offsets: Sequence[int], sizes: Sequence[int]
    ) -> list[bytes | ShardError]:
        """Return the bytes of each range, or the error that befell it."""
        wanted: list[Range] = list(zip(files, offsets, sizes, strict=True))
        found: dict[Range, bytes | ShardError] = {}
        for item in wanted:
            if item in self._cache:
                self._cache.move_to_end(item)
                found[item] = self._cache[item]
        requests = merge(sorted(set(wanted) - set(found)))
        for request in requests:  # streams are opened here: their dict is not for threads
            self._stream(request.file, found, request.ranges)
        open_ones = [request for request in requests if request.ranges[0] not in found]
        self.requests += len(open_ones)
        for request, data in zip(open_ones, self._pool.map(self._fetch, open_ones), strict=True):
            self._take(request, data, found)
        return [found[item] for item in wanted]

    def _stream(
        self, file: int, found: dict[Range, bytes | ShardError], ranges: Sequence[Range]
    ) -> None:
        """Open a file if it is not open yet; on failure note the error for its ranges."""
        if file in self._streams:
            return
        where = self._files[file]
        try:
            stream = where.open_input()
            size = stream.size()
        except (StorageError, OSError) as error:
            fault = ShardError(f"the shard {where} cannot be opened: {error}")
        else:
            if size == self._sizes[file]:
                self._streams[file] = stream
                return
            fault = ShardError(
                f"the shard {where} has {size} bytes, the index says {self._sizes[file]}"
            )
        found.update(dict.fromkeys(ranges, fault))

    def _fetch(self, request: Request) -> bytes | ShardError:
        try:
            stream = self._streams[request.file]
            return bytes(stream.read_at(request.stop - request.start, request.start))
        except OSError as error:
            return ShardError(f"cannot be read: {' '.join(str(error).split())}")

    def _take(
        self, request: Request, data: bytes | ShardError, found: dict[Range, bytes | ShardError]
    ) -> None:
        for item in request.ranges:
            _, offset, size = item
            if isinstance(data, ShardError):
                found[item] = data
                continue
            part = data[offset - request.start : offset - request.start + size]
            if len(part) != size:
                found[item] = ShardError(f"{len(part)} of {size} bytes came; truncated")
                continue
            found[item] = part
            self._keep(item, part)

    def _keep(self, item: Range, part: bytes) -> None:
        if len(part) > self._cache_bytes:
            return
        self._cache[item] = part
        self._cached += len(part)
        while self._cached > self._cache_bytes:
            self._cached -= len(self._cache.popitem(last=False)[1])


def merge(ranges: Sequence[Range]) -> list[Request]:
    """Return requests that cover sorted ranges, near ones of a file together."""
    requests: list[Request] = []
    for file, offset, size in ranges:
        last = requests[-1] if requests else None
        stop = offset + size
        if (
            last is not None
            and last.file == file
            and offset - last.stop <= MERGE_GAP
            and stop - last.start <= MERGE_MOST
        ):
            last.ranges.append((file, offset, size))
            requests[-1] = last._replace(stop=max(stop, last.stop))
        else:
            requests.append(Request(file, offset, stop, [(file, offset, size)]))
    return requests
