"""One tar shard being written: temporary name, checksums and payload positions on the way."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from webdataset.writer import TarWriter

from data_shards.location import Location
from data_shards.manifest import ShardFile
from fsl.errors import ShardError

BLOCK = 512
CLOSING = 2 * BLOCK
RECORD = 20 * BLOCK


class TarShard:
    """A shard that appears under its name when closed.

    Args:
        target: where the finished shard goes.
        split: name of the directory above, part of the name in the index.
        spool: local directory to write in when the target is on another storage.
    """

    def __init__(self, target: Location, split: str, spool: Path) -> None:
        self.target, self.name, self.samples = target, f"{split}/{target.name}", 0
        local = target.local
        self._path = (local.parent if local else spool) / f".{target.name}.part"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = _Hashing(self._path.open("wb"))
        except OSError as error:
            raise self._failed(error) from None
        # An integer time: a float one would add an extended header to every member.
        self._tar = TarWriter(
            self._stream, user="", group="", mtime=0, encoder=False, compress=False
        )

    @property
    def _end(self) -> int:
        return int(self._tar.tarstream.offset)

    def bytes_with(self, fields: Mapping[str, bytes]) -> int:
        """Return the size of the finished file if a sample with these members were the last."""
        end = self._end + sum(BLOCK + _padded(len(content)) for content in fields.values())
        return -(-(end + CLOSING) // RECORD) * RECORD

    def add(self, key: str, fields: Mapping[str, bytes], payload: str) -> tuple[int, int]:
        """Write a sample; return the position of the member `payload` and its crc32."""
        if "." in key or "/" in key or key.startswith("_") or not key:
            raise ShardError(f"{self.target}: key {key!r}: dots, slashes and `_` break readers")
        positions, end = {}, self._end
        for ext in sorted(fields):  # webdataset writes members in this order
            positions[ext] = end + BLOCK
            end += BLOCK + _padded(len(fields[ext]))
        try:
            self._tar.write({"__key__": key, **fields})
        except OSError as error:
            raise self._failed(error) from None
        assert self._end == end, "webdataset changed its layout: positions would be wrong"
        self.samples += 1
        return positions[payload], zlib.crc32(fields[payload])

    def close(self) -> tuple[ShardFile, str]:
        """Finish the shard and put it in place; return its entry and its md5."""
        try:
            self._tar.close()
            self._stream.finish()
            if self.target.local is not None:
                os.replace(self._path, self.target.local)
            else:
                self.target.upload(self._path)
                self._path.unlink()
        except OSError as error:
            raise self._failed(error) from None
        stream = self._stream
        file = ShardFile(self.name, stream.count, self.samples, stream.sha256.hexdigest())
        return file, stream.md5.hexdigest()

    def abandon(self) -> None:
        """Drop the unfinished shard."""
        self._stream.discard()
        self._tar.close()
        self._path.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> ShardError:
        reason = error.strerror or str(error)
        return ShardError(
            f"{self.target}: cannot be written: {reason}; no index was written, "
            "free some room or choose another place, and write again"
        )


class _Hashing:
    """The file under the tar writer: counts and hashes what passes.

    After `discard` it swallows everything: a tar writer whose disk is full must still be closed,
    and closing writes.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.count, self.open = stream, 0, True
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    def write(self, content: bytes) -> int:
        """Write, unless discarded."""
        if self.open:
            self.stream.write(content)
            self.sha256.update(content)
            self.md5.update(content)
            self.count += len(content)
        return len(content)

    def finish(self) -> None:
        """Make sure that the bytes are on the disk."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()

    def discard(self) -> None:
        """Ignore what is still to come; what was buffered may fail to be written."""
        self.open = False
        try:
            self.stream.close()
        except OSError:
            self.stream.close()  # the second call releases the handle


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
