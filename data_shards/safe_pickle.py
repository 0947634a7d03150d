"""Numbers and strings out of a pickle, without running what the pickle asks for.

A pickle is a program: it may call any function that it can name. Here the few names that arrays
need stand for objects of ours which only note what they are given; arrays are rebuilt from those
notes after their sizes are checked. Any other name is refused before it is looked up.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_shards.location import Location
from fsl.errors import ShardError

DTYPE = re.compile(r"[biufSUO]\d*")
FAULTS = (
    pickle.PickleError, EOFError, ArithmeticError, AttributeError, ImportError, LookupError,
    MemoryError, TypeError, ValueError,
)  # fmt: skip
"""What a damaged pickle makes Python's reader raise."""


class NotedDtype:
    """The description of an array's elements."""

    __slots__ = ("order", "text")

    def __init__(self, text: Any, *_flags: Any) -> None:
        self.text, self.order = text, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        """Return the type; only plain numbers, strings and lists of objects have one."""
        if not isinstance(self.text, str) or not DTYPE.fullmatch(self.text):
            raise pickle.UnpicklingError(f"elements of type {self.text!r}")
        if self.order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"byte order {self.order!r}")
        return np.dtype(self.order + self.text)


class NotedArray:
    """What a pickle says of an array."""

    __slots__ = ("content", "dtype", "fortran", "shape")

    def __init__(self, *_placeholder: Any) -> None:
        self.shape, self.dtype, self.fortran, self.content = (0,), NotedDtype("u1"), False, b""

    def __setstate__(self, state: Any) -> None:
        self.shape, self.dtype, self.fortran, self.content = state[-4:]

    def array(self) -> NDArray[Any]:
        """Return the array; raises UnpicklingError unless its parts fit together."""
        if not isinstance(self.dtype, NotedDtype) or not isinstance(self.shape, tuple):
            raise pickle.UnpicklingError("an array of no known shape and type")
        if not all(isinstance(size, int) and size >= 0 for size in self.shape):
            raise pickle.UnpicklingError(f"an array of shape {self.shape}")
        dtype, count = self.dtype.dtype(), math.prod(self.shape)
        if dtype.hasobject:
            if not isinstance(self.content, list) or len(self.content) != count:
                raise pickle.UnpicklingError(f"an array of {count} objects without them")
            flat = np.empty(count, object)
            flat[:] = self.content
        else:
            content = self.content
            if isinstance(content, str):  # how Python 2's strings arrive under latin1
                content = content.encode("latin1")
            if not isinstance(content, bytes | bytearray):
                raise pickle.UnpicklingError("an array without its bytes")
            if len(content) != count * dtype.itemsize:
                raise pickle.UnpicklingError(
                    f"{len(content)} bytes for an array of shape {self.shape} and type {dtype}"
                )
            flat = np.frombuffer(content, dtype)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


class _Permitted:
    """What a permitted name becomes: it can be called, and nothing about it can be changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function is given a state")


def _scalar(dtype: NotedDtype, content: Any = b"") -> Any:
    note = NotedArray()
    note.__setstate__(((), dtype, False, [content] if dtype.dtype().hasobject else content))
    return note.array().item()


def _from_buffer(content: Any, dtype: NotedDtype, shape: Any, order: Any) -> NotedArray:
    note = NotedArray()
    note.__setstate__((shape, dtype, order == "F", content))
    return note


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _never(*_arguments: Any) -> Any:
    raise pickle.UnpicklingError("numpy.ndarray is called")


PERMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _never,  # only ever an argument
    ("numpy", "dtype"): NotedDtype,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    PERMITTED[f"{_core}.multiarray", "_reconstruct"] = NotedArray
    PERMITTED[f"{_core}.multiarray", "scalar"] = _scalar
    PERMITTED[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Refused(pickle.UnpicklingError):
    """The pickle names something that arrays have no need of."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PERMITTED:
            raise _Refused(f"{module}.{name}")
        return _Permitted(PERMITTED[module, name])


def load_pickle(where: Location) -> Any:
    """Return the dicts, lists, strings and numbers in a pickle; arrays are `NotedArray`.

    Strings that Python 2 wrote come as `str` of the same bytes (latin1).

    Raises:
        ShardError: damaged, or it names any function or class besides those of arrays.
    """
    with where.open_input() as stream, io.BufferedReader(stream, 1 << 20) as buffered:
        return read_pickle(buffered, str(where))


def read_pickle(stream: BinaryIO, where: str) -> Any:
    """Return what an opened pickle holds; see `load_pickle`. `where` is for messages."""
    try:
        return _Reader(stream, encoding="latin1").load()
    except _Refused as error:
        raise ShardError(
            f"{where}: the pickle asks for {error}, which no file of arrays needs; nothing of "
            "it was run. Fetch the file again from whoever published it"
        ) from None
    except FAULTS as error:
        raise unusable(where, error) from None


def unusable(where: Location | str, error: Exception) -> ShardError:
    """Return the error of a pickle that cannot be understood."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return ShardError(f"{where}: not a usable pickle of arrays ({reason}); fetch the file again")


def noted_array(where: Location | str, value: Any, what: str) -> NDArray[Any]:
    """Return the array that `value` describes; raises ShardError when it describes none."""
    if not isinstance(value, NotedArray):
        raise ShardError(f"{where}: {what} is no array but {type(value).__name__}")
    try:
        return value.array()
    except FAULTS as error:
        raise unusable(where, error) from None
