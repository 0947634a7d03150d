"""Feature tables: the vectors of every image of a shard set, one Parquet file or more per split.

Rows stand in the order of the split they were extracted from, so sealed episodes and orders fit
the images and their features alike. A `FeatureSplit` can be used wherever a `Split` serves for
keys, labels and classes.

Letters in shapes: N rows of a split, C classes of a split, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_shards.class_rows import ClassRows
from data_shards.feature_parts import (
    F32,
    FORMAT,
    FeatureMeta,
    PartHeader,
    part_name,
    read_column,
    read_header,
)
from data_shards.location import Location
from data_shards.manifest import split_order
from fsl.config import digest
from fsl.errors import ShardError, did_you_mean


class DataReference(NamedTuple):
    """The data that a split's rows are images of; what sealed episodes are bound to."""

    root: Location
    digest: str


class FeatureSet:
    """An opened directory of feature tables. Columns are read when first asked for.

    Attributes:
        root: the directory.
        parts: per split, what each of its files says of itself, in row order.
        meta: what the vectors were made from, the same for all splits.
        widths: per vector, its number of features D.
        class_names: per split, class names in label order.
        digest: sha256 of all content and of what made it; runs on these features depend on it.
    """

    def __init__(self, root: Location, parts: dict[str, list[PartHeader]]) -> None:
        self.root = root
        self.parts = {name: parts[name] for name in split_order(list(parts))}
        any_part = next(iter(parts.values()))[0]
        self.meta: FeatureMeta = any_part.meta
        self.widths = any_part.widths
        self.class_names = {name: some[0].class_names for name, some in self.parts.items()}
        content = {
            name: [some[0].class_names, [part.digests for part in some]]
            for name, some in parts.items()
        }
        self.digest = digest({"format": FORMAT, "meta": self.meta.identity(), "splits": content})

    @classmethod
    def open(cls, root: Location) -> FeatureSet:
        """Return the tables in the directory `root`.

        Raises:
            ShardError: no tables there, a part missing, damaged or foreign, or a mixture.
        """
        files = [file for file in root.list() if _is_table(file)] if root.is_dir() else []
        if not files:
            raise ShardError(
                f"{root}: no feature tables (*.parquet); make them with a stage of kind "
                "extract_features, or import embeddings"
            )
        parts: dict[str, list[PartHeader]] = {}
        first: PartHeader | None = None
        for file in files:
            part = read_header(file)
            first = first or part
            if (part.meta, part.widths) != (first.meta, first.widths):
                raise ShardError(
                    f"{file}: from another checkpoint, data or preparation than "
                    f"{files[0].name}; keep the tables of each in a directory of its own"
                )
            parts.setdefault(part.split, []).append(part)
        for found in parts.values():
            found.sort(key=lambda part: part.part)
            _refuse_gaps(root, found)
        return cls(root, parts)

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in order."""
        return list(self.parts)

    def split(self, name: str) -> FeatureSplit:
        """Return one split; raises ShardError with the near match."""
        if name not in self.parts:
            raise ShardError(
                f"{self.root}: no features of split {name!r}{did_you_mean(name, self.splits)}; "
                f"it has: {', '.join(self.splits)}"
            )
        return FeatureSplit(self, name)

    def __len__(self) -> int:
        return sum(parts[0].total for parts in self.parts.values())

    def describe(self) -> str:
        """Return a table for people, one line per split."""
        vectors = ", ".join(f"{name} ({width})" for name, width in self.widths.items())
        head = [
            f"{self.root}: {len(self)} feature vectors, digest {self.digest[:12]}",
            f"vectors {vectors}; of data {self.meta.data[:12]}, "
            f"weights {(self.meta.weights or 'unknown')[:12]}",
            "",
            f"{'split':10}{'classes':>8}{'rows':>10}{'per class':>12}{'files':>7}",
        ]
        return "\n".join(head + [_line(self.split(name)) for name in self.splits])


class FeatureSplit:
    """The features of one split. All arrays are in row order and read-only.

    Pickles as a reference (root, name, digest): a loader worker reads the tables itself.
    """

    def __init__(self, feature_set: FeatureSet, name: str) -> None:
        self.feature_set, self.name = feature_set, name
        self.class_names = feature_set.class_names[name]
        self.parts = feature_set.parts[name]
        self.files = [feature_set.root / part_name(name, p.part, p.parts) for p in self.parts]
        self.shard_sizes = np.array([part.rows for part in self.parts], np.int64)
        self.shard_set = DataReference(feature_set.root, feature_set.meta.data)
        self._vectors: dict[str, F32] = {}

    def __len__(self) -> int:
        return int(self.shard_sizes.sum())

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_split, (self.feature_set.root, self.name, self.feature_set.digest)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Class numbers from 0 within the split, (N,)."""
        labels: NDArray[np.int32] = np.concatenate(self._columns("label"))
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            raise ShardError(f"{self.files[0]}: labels beyond its {len(self.class_names)} classes")
        labels.setflags(write=False)
        return labels

    @cached_property
    def keys(self) -> Sequence[str]:
        """Sample keys, N of them; read when first needed."""
        return [key for column in self._columns("key") for key in column]

    def key(self, row: int) -> str:
        """Return the key of one row."""
        return self.keys[int(row)]

    def vectors(self, name: str | None = None) -> F32:
        """Return the vectors called `name` (the only ones when None), (N, D), read once."""
        known = list(self.feature_set.widths)
        if name is None and len(known) > 1:
            raise ShardError(f"{self.feature_set.root}: name one of its vectors: {known}")
        name = name or known[0]
        if name not in known:
            raise ShardError(
                f"{self.feature_set.root}: no vectors {name!r}{did_you_mean(name, known)}; "
                f"it has: {', '.join(known)}"
            )
        if name not in self._vectors:
            self._vectors[name] = self._read_vectors(name)
        return self._vectors[name]

    def class_rows(self) -> ClassRows:
        """Return the rows grouped by class."""
        return self._class_rows

    @cached_property
    def _class_rows(self) -> ClassRows:
        return ClassRows.grouped(self.labels, len(self.class_names))

    def _columns(self, name: str) -> list[Any]:
        pairs = zip(self.files, self.parts, strict=True)
        return [read_column(file, part, name) for file, part in pairs]

    def _read_vectors(self, name: str) -> F32:
        """Read part by part, so that little more than the result is in memory at a time."""
        found = np.empty((len(self), self.feature_set.widths[name]), np.float32)
        for file, part in zip(self.files, self.parts, strict=True):
            found[part.first : part.first + part.rows] = read_column(file, part, name)
        found.setflags(write=False)
        return found


def _open_split(root: Location, name: str, set_digest: str) -> FeatureSplit:
    feature_set = FeatureSet.open(root)
    if feature_set.digest != set_digest:
        raise ShardError(f"{root}: the features were replaced while they were in use; start again")
    return feature_set.split(name)


def _is_table(file: Location) -> bool:
    return file.name.endswith(".parquet") and not file.name.startswith(".")


def _refuse_gaps(root: Location, parts: list[PartHeader]) -> None:
    first, rows = parts[0], 0
    for number in range(first.parts):
        part = parts[number] if number < len(parts) else None
        if part is None or part.part != number or not part.same_table(first) or part.first != rows:
            raise ShardError(
                f"{root}: {part_name(first.split, number, first.parts)} is missing or belongs to "
                f"another table; run the extraction again, it writes what is missing"
            )
        rows += part.rows
    if len(parts) > first.parts or rows != first.total:
        raise ShardError(
            f"{root}: the files of split {first.split!r} do not add up to its {first.total} rows "
            f"in {first.parts} parts; delete them and extract the features again"
        )


def _line(split: FeatureSplit) -> str:
    counts = split.class_rows().counts
    low, high = str(counts.min()), str(counts.max())
    each = low if low == high else f"{low}..{high}"
    rows, classes = len(split), len(split.class_names)
    return f"{split.name:10}{classes:>8}{rows:>10}{each:>12}{len(split.files):>7}"
