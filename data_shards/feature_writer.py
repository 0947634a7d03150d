"""Writing a feature table part by part: resumable, by any number of processes at once.

The rows of a part depend on the split alone, not on who writes it, so a run that was killed
continues with another number of workers. A part appears whole or not at all.

Letters in shapes: n rows of a part, N rows of the split, D features.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data_shards.feature_parts import (
    F32,
    DamagedPartError,
    FeatureMeta,
    PartHeader,
    column_digest,
    part_name,
    read_column,
    read_header,
    write_part,
)
from data_shards.location import Location
from fsl.errors import ConfigError, ShardError

logger = logging.getLogger(__name__)

ROWS_PER_PART = 16384
PART_NAME = re.compile(r"(?P<split>[^.].*?)(-\d{5}-of-(?P<parts>\d{5}))?\.parquet")


class Keyed(Protocol):
    """What is written beside the vectors; a `Split` of a shard set is one."""

    @property
    def name(self) -> str:
        """Name of the split."""

    @property
    def class_names(self) -> list[str]:
        """Classes in label order."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """Class of each row, (N,)."""

    @property
    def keys(self) -> Any:
        """Key of each row, an Arrow array or a sequence of N strings."""


class KeyedRows(NamedTuple):
    """`Keyed` rows in memory."""

    name: str
    class_names: list[str]
    labels: NDArray[np.int32]
    keys: Sequence[str]


class PartWriter:
    """Writes the parts of one split's table into a directory.

    Args:
        directory: where the tables of all splits lie.
        split: the rows, in the order that vectors are given in.
        meta: what the vectors are made from.
        rows_per_part: rows of every part but the last.
    """

    def __init__(
        self,
        directory: Location,
        split: Keyed,
        meta: FeatureMeta,
        rows_per_part: int = ROWS_PER_PART,
    ) -> None:
        if rows_per_part < 1:
            raise ConfigError(f"rows_per_part: {rows_per_part}; use 1 or more")
        if not len(split.labels):
            raise ShardError(f"{directory}: split {split.name!r} has no rows to write features of")
        self.directory, self.split, self.meta = directory, split, meta
        self.rows_per_part = rows_per_part
        self.parts = -(-len(split.labels) // rows_per_part)

    def rows(self, part: int) -> NDArray[np.int64]:
        """Return the rows of the split that a part holds, (n,), consecutive."""
        if not 0 <= part < self.parts:
            raise IndexError(f"part {part} of {self.parts}")
        first = part * self.rows_per_part
        last = min(first + self.rows_per_part, len(self.split.labels))
        return np.arange(first, last, dtype=np.int64)

    def where(self, part: int) -> Location:
        """Return the file of a part."""
        return self.directory / part_name(self.split.name, part, self.parts)

    def missing(self) -> list[int]:
        """Return the parts that are still to be written; damaged ones are among them.

        Raises:
            ShardError: the directory holds features of something else, which are not touched.
        """
        self._refuse_other_numbers_of_parts()
        return [part for part in range(self.parts) if not self._is_whole(part)]

    def write(self, part: int, vectors: Mapping[str, F32]) -> None:
        """Write one part: by name, vectors (n, D) of `rows(part)`."""
        rows = self.rows(part)
        keys, labels = self._columns(rows)
        for name, values in vectors.items():
            self._check(part, name, values)
        digests = {"key": column_digest(keys), "label": column_digest(labels)}
        header = PartHeader(
            split=self.split.name,
            class_names=list(self.split.class_names),
            part=part,
            parts=self.parts,
            first=int(rows[0]),
            rows=len(rows),
            total=len(self.split.labels),
            widths={name: values.shape[1] for name, values in vectors.items()},
            meta=self.meta,
            digests=digests | {name: column_digest(values) for name, values in vectors.items()},
        )
        write_part(self.where(part), header, keys, labels, vectors)

    def refuse_other_vectors(self, part: int, vectors: Mapping[str, F32]) -> None:
        """Raise ShardError unless a part that is there holds these vectors (n, D)."""
        where = self.where(part)
        digests = read_header(where).digests
        for name, values in vectors.items():
            if digests.get(name) != column_digest(values):
                raise ShardError(
                    f"{where}: of the same rows, but other vectors {name!r} than those to be "
                    "written; choose another directory, or delete this one"
                )

    def _columns(self, rows: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int32]]:
        keys = self.split.keys[int(rows[0]) : int(rows[-1]) + 1]
        return [str(key) for key in keys], np.asarray(self.split.labels[rows], np.int32)

    def _check(self, part: int, name: str, values: F32) -> None:
        where, rows = self.where(part), self.rows(part)
        if name in ("key", "label") or not name:
            raise ConfigError(f"{where}: vectors cannot be called {name!r}; choose another name")
        if values.ndim != 2 or len(values) != len(rows) or not values.shape[1]:
            raise ShardError(
                f"{where}: {name} has shape {values.shape}, its rows are {len(rows)}; "
                "give one vector per row"
            )
        unusable = np.flatnonzero(~np.isfinite(values).all(1))
        if unusable.size:
            key = str(self.split.keys[int(rows[unusable[0]])])
            raise ShardError(
                f"{where}: {name} of {key!r} is not finite ({unusable.size} such rows); the "
                "model that made it is not usable"
            )

    def _is_whole(self, part: int) -> bool:
        where = self.where(part)
        if not where.exists():
            return False
        try:
            header = read_header(where)
            columns = {name: read_column(where, header, name) for name in header.digests}
        except DamagedPartError as error:
            logger.warning("%s; writing it again", error)
            return False
        keys, labels = self._columns(self.rows(part))
        same = (header.meta, header.class_names) == (self.meta, list(self.split.class_names))
        if not same or columns["key"] != keys or columns["label"].tolist() != labels.tolist():
            raise ShardError(
                f"{where}: features of other images or another checkpoint (data "
                f"{header.meta.data[:12]}, weights {(header.meta.weights or 'unknown')[:12]}); "
                "choose another directory, or delete this one"
            )
        return True

    def _refuse_other_numbers_of_parts(self) -> None:
        if not self.directory.exists():
            return
        for where in self.directory.list():
            match = PART_NAME.fullmatch(where.name)
            if match and match["split"] == self.split.name:
                parts = int(match["parts"] or 1)
                if parts != self.parts:
                    raise ShardError(
                        f"{where}: belongs to a table of {parts} parts, this one has "
                        f"{self.parts}; choose another directory, or delete this one"
                    )


def write_features(
    directory: Location,
    split: Keyed,
    vectors: Mapping[str, F32],
    meta: FeatureMeta,
    rows_per_part: int = ROWS_PER_PART,
) -> None:
    """Write the table of one split; parts that are there already must hold the same vectors.

    Args:
        directory: where the tables of all splits lie.
        split: the rows.
        vectors: by name, (N, D) each.
        meta: what the vectors were made from.
        rows_per_part: rows of every part but the last.
    """
    writer = PartWriter(directory, split, meta, rows_per_part)
    for name, values in vectors.items():
        if len(values) != len(split.labels):
            raise ShardError(
                f"{directory}: {len(values)} vectors {name!r} for the {len(split.labels)} rows of "
                f"split {split.name!r}; give one per row"
            )
    missing = set(writer.missing())
    for part in range(writer.parts):
        rows = writer.rows(part)
        own = {name: values[rows] for name, values in vectors.items()}
        if part in missing:
            writer.write(part, own)
        else:
            writer.refuse_other_vectors(part, own)
