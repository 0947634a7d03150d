"""Lists the members of a tar from its headers, and notices what tar readers pass over.

A zeroed stretch looks like the end of the archive to any tar reader, so here everything after the
end marker must be zero and short. Names and sizes in pax and GNU headers are understood (webdataset
writes a pax header for every member, for the time); rarer kinds are left to `tarfile`.
"""

from __future__ import annotations

import mmap
import tarfile
from pathlib import Path
from typing import NamedTuple

from fsl.errors import ShardError

BLOCK = 512
MOST_PADDING = 64 << 10  # common writers pad to 10,240 bytes
CHECKSUM = slice(148, 156)
REGULAR = b"\0", b"0", b"7"
EMPTY = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices and directories carry no data
PAX, GNU_NAME, GNU_LINK = b"x", b"L", b"K"
ADVICE = "fetch or write the shard again"


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int  # of the content's first byte
    size: int


class _Unusual(Exception):
    """The archive has headers that only `tarfile` understands."""


def scan_tar(path: Path, shown: str) -> list[Member]:
    """Return the regular files of a local tar in order.

    Args:
        path: the tar, not compressed.
        shown: its name in messages.

    Raises:
        ShardError: empty, truncated, compressed, garbled, or with content after the end marker.
    """
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                raise ShardError(f"{shown}: the shard is empty (0 bytes); {ADVICE}")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                try:
                    members, end = _headers(data, shown)
                except _Unusual:
                    members, end = _with_tarfile(path, shown)
                _refuse_content_after(data, end, shown)
                return members
    except OSError as error:
        raise ShardError(f"{shown}: cannot be read: {error.strerror or error}") from None


def _headers(data: mmap.mmap, shown: str) -> tuple[list[Member], int]:
    """Return the members and the offset of the end marker."""
    members: list[Member] = []
    stated: dict[str, str] = {}  # what a pax or GNU header says of the next member
    position, total = 0, len(data)
    while True:
        header = data[position : position + BLOCK]
        if len(header) < BLOCK:
            raise _truncated(shown, position, members, total)
        if not any(header):
            return members, position
        if not _checksum_fits(header):
            raise _garbled(header, shown, position, members)
        kind, start = header[156:157], position + BLOCK
        size = int(stated.get("size") or _number(header[124:136], shown, position))
        size = 0 if kind in EMPTY else size
        if start + size > total:
            raise _truncated(shown, position, members, total)
        if kind == PAX:
            stated |= _pax_records(data[start : start + size])
        elif kind == GNU_NAME:
            stated["path"] = _text(data[start : start + size], shown, position)
        elif kind in REGULAR:
            name = stated.get("path") or _name(header, shown, position)
            members.append(Member(name, start, size))
        elif kind not in EMPTY and kind != GNU_LINK:
            raise _Unusual
        if kind not in (PAX, GNU_NAME, GNU_LINK):
            stated = {}
        position = start + -(-size // BLOCK) * BLOCK


def _pax_records(content: bytes) -> dict[str, str]:
    """Return the records of a pax header, each `<length> <key>=<value>` and a line end."""
    records: dict[str, str] = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or not int(length):
            raise _Unusual
        record = content[len(length) + 1 : int(length) - 1]
        key, equals, value = record.decode(errors="replace").partition("=")
        if not equals or key.startswith("GNU.sparse") or (key == "size" and not value.isdigit()):
            raise _Unusual
        records[key] = value
        content = content[int(length) :]
    return records


def _garbled(header: bytes, shown: str, position: int, members: list[Member]) -> ShardError:
    if not position and header.startswith((b"\x1f\x8b", b"BZh", b"\xfd7z")):
        return ShardError(f"{shown}: a compressed tar has no byte offsets; unpack it first")
    return ShardError(
        f"{shown}: byte {position}, after {_last(members)}: not a tar header (its checksum "
        f"does not fit): the shard is damaged there; {ADVICE}"
    )


def _checksum_fits(header: bytes) -> bool:
    field = header[CHECKSUM].strip(b" \0")
    try:
        stated = int(field, 8)
    except ValueError:
        return False
    return stated == sum(header) - sum(header[CHECKSUM]) + 8 * 32


def _number(field: bytes, shown: str, position: int) -> int:
    if field[0] & 0x80:  # base 256, for sizes beyond 8 GB
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise ShardError(f"{shown}: byte {position}: {field!r} is no size; {ADVICE}") from None


def _name(header: bytes, shown: str, position: int) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return _text(name, shown, position)


def _text(name: bytes, shown: str, position: int) -> str:
    try:
        return name.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError:
        raise ShardError(f"{shown}: byte {position}: {name!r} is not a UTF-8 name") from None


def _with_tarfile(path: Path, shown: str) -> tuple[list[Member], int]:
    try:
        with tarfile.open(path, "r:") as tar:
            members = [Member(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
            return members, tar.offset
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise ShardError(f"{shown}: damaged tar: {error}; {ADVICE}") from None


def _refuse_content_after(data: mmap.mmap, end: int, shown: str) -> None:
    rest = len(data) - end
    blank = not any(data[end : end + MOST_PADDING])
    if blank and rest <= MOST_PADDING:
        return
    what = "more zeros than a writer pads with" if blank else "more content"
    raise ShardError(
        f"{shown}: byte {end}: zeros that mark the end of the tar, but {rest} bytes remain with "
        f"{what}: a stretch of the shard was zeroed, or two tars were joined; {ADVICE}"
    )


def _truncated(shown: str, position: int, members: list[Member], total: int) -> ShardError:
    return ShardError(
        f"{shown}: byte {position}, after {_last(members)}: the file ends at byte {total} in the "
        f"middle of a member or without an end marker: truncated; {ADVICE}"
    )


def _last(members: list[Member]) -> str:
    return f"{members[-1].name!r} ({len(members)} members)" if members else "no member"
