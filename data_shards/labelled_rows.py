"""What episodes and orders need of a split: a split of shards, or one of feature tables."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_shards.class_rows import ClassRows
from data_shards.location import Location


class DataIdentity(Protocol):
    """Where data are, and which."""

    @property
    def root(self) -> Location:
        """The directory."""

    @property
    def digest(self) -> str:
        """What sealed episodes are bound to: feature tables have that of their images."""


class LabelledRows(Protocol):
    """Rows with class numbers."""

    name: str
    class_names: list[str]
    shard_sizes: NDArray[np.int64]

    @property
    def shard_set(self) -> DataIdentity:
        """The data that the rows are of."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """Class numbers from 0, (N,)."""

    def class_rows(self) -> ClassRows:
        """Return the rows grouped by class."""

    def key(self, row: int) -> str:
        """Return the key of one row."""

    def __len__(self) -> int: ...

    def __reduce__(self) -> tuple[Any, ...]: ...
