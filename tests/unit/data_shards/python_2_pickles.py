"""Opcodes as Python 2's pickle module wrote them, assembled by hand."""

from __future__ import annotations

import struct
from typing import Any

from numpy.typing import NDArray


def py2_string(text: bytes, protocol: int) -> bytes:
    if protocol == 0:
        return b"S" + repr(text)[1:].encode() + b"\n"
    short = len(text) < 256
    return b"U" + bytes([len(text)]) + text if short else b"T" + struct.pack("<i", len(text)) + text


def py2_integer(value: int, protocol: int) -> bytes:
    return b"I%d\n" % value if protocol == 0 else b"J" + struct.pack("<i", value)


def py2_tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def py2_array(array: NDArray[Any], protocol: int) -> bytes:
    """Assemble what Python 2's pickle module wrote of a float or byte string array."""

    def text(value: str) -> bytes:
        return py2_string(value.encode(), protocol)

    def integer(value: int) -> bytes:
        return py2_integer(value, protocol)

    none, false = b"N", b"I00\n" if protocol == 0 else b"\x89"
    kind, order = array.dtype.str[1:], array.dtype.str[0]
    width = array.itemsize if kind[0] == "S" else -1
    dtype_state = py2_tuple(
        integer(3),
        text(order),
        none,
        none,
        none,
        integer(width),
        integer(min(width, 1)),
        integer(0),
    )
    dtype = b"cnumpy\ndtype\n" + py2_tuple(text(kind), integer(0), integer(1)) + b"R"
    shape = py2_tuple(*(integer(size) for size in array.shape))
    content = py2_string(array.tobytes(), protocol)
    begin = b"cnumpy.core.multiarray\n_reconstruct\n" + py2_tuple(
        b"cnumpy\nndarray\n", py2_tuple(integer(0)), text("b")
    )
    state = py2_tuple(integer(1), shape, dtype + dtype_state + b"b", false, content)
    return begin + b"R" + state + b"b"


def py2_dict(items: dict[str, bytes], protocol: int) -> bytes:
    pairs = b"".join(py2_string(name.encode(), protocol) + value for name, value in items.items())
    begin = b"" if protocol == 0 else b"\x80\x02"
    return begin + b"(" + pairs + b"d."


def py2_list(texts: list[str], protocol: int) -> bytes:
    return b"(" + b"".join(py2_string(text.encode(), protocol) for text in texts) + b"l"
