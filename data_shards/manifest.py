"""The Parquet index of a shard set: which bytes of which tar hold which sample.

A shard set is a directory with one `index.parquet` and one sub-directory of tars per split. Rows
are sorted by (split, shard, offset), so a sample's row number within its split is its position
in the concatenated shards. The index is written last: a directory without one is not a shard set.

Letters in shapes: N samples of a split, C classes of a split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_shards.class_rows import ClassRows
from data_shards.location import Location
from fsl.errors import ShardError, did_you_mean

INDEX_NAME = "index.parquet"
FORMAT = 1
METADATA_KEY = b"fewshot-shards"

COLUMNS: dict[str, Any] = {
    "key": pa.string(),
    "split": pa.dictionary(pa.int8(), pa.string()),
    "label": pa.int32(),
    "shard": pa.int32(),
    "offset": pa.int64(),
    "size": pa.int32(),
    "ext": pa.dictionary(pa.int8(), pa.string()),
    "crc32": pa.uint32(),
    "width": pa.int16(),
    "height": pa.int16(),
}
"""Columns of every index; further columns are strings (alphabet, domain, ...)."""

ClsHolds = Literal["number", "name"]


@dataclass(frozen=True)
class ShardFile:
    """One tar: its name relative to the root ("base/base-000000.tar") and what it must hold."""

    name: str
    bytes: int
    samples: int
    sha256: str


class ShardSet:
    """An opened index. Columns are read when first asked for, one split at a time.

    Attributes:
        root: the directory.
        digest: sha256 of what can change a result: splits, classes, keys, labels, image
            checksums and their order. Independent of where the set lies.
        class_names: per split, class names in label order.
        files: every shard, in row order.
        file_splits: the split of each of them.
        seed: the seed samples were shuffled with when packed; None for foreign tars.
        source: what the set was made of, as the writer described it.
        extra_names: names of the additional string columns.
        cls_holds: whether a `.cls` member holds the label number or the class name.
    """

    def __init__(self, root: Location, metadata: Mapping[str, Any], extra_names: list[str]) -> None:
        self.root = root
        self.digest = str(metadata["digest"])
        self.class_names: dict[str, list[str]] = dict(metadata["classes"])
        self.file_splits = [str(shard["split"]) for shard in metadata["shards"]]
        self.files = [
            ShardFile(shard["name"], shard["bytes"], shard["samples"], shard["sha256"])
            for shard in metadata["shards"]
        ]
        self.seed: int | None = metadata["seed"]
        self.source: dict[str, Any] = dict(metadata["source"])
        self.cls_holds: ClsHolds = metadata["cls_holds"]
        self.extra_names = extra_names

    @classmethod
    def open(cls, root: Location) -> ShardSet:
        """Return the shard set at `root`.

        Raises:
            ShardError: no index, not an index, or one of another format version.
        """
        where = root / INDEX_NAME
        if not where.exists():
            raise ShardError(
                f"{root}: no {INDEX_NAME}, so this is no shard set; write it with "
                "`fewshot shards write`, or index existing tars with `fewshot shards index`"
            )
        schema = _parquet(where).schema_arrow
        metadata = _metadata(where, schema)
        for name, kind in COLUMNS.items():
            if name not in schema.names or schema.field(name).type != kind:
                raise ShardError(f"{where}: column {name!r} of type {kind} is missing; index again")
        return cls(root, metadata, [name for name in schema.names if name not in COLUMNS])

    @property
    def remedy(self) -> str:
        """What to do when the index is damaged; one made anew from our tars lacks class names."""
        again = "write" if "settings" in self.source else "index"
        return f"{again} the shards again"

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in order."""
        return list(self.class_names)

    def split(self, name: str) -> Split:
        """Return one split; raises ShardError with the near match."""
        if name not in self.class_names:
            raise ShardError(
                f"{self.root}: no split {name!r}{did_you_mean(name, self.splits)}; "
                f"it has: {', '.join(self.splits)}"
            )
        return Split(self, name)

    def __len__(self) -> int:
        return sum(file.samples for file in self.files)


class Split:
    """One split of a shard set. All arrays are in row order and read-only.

    Pickles as a reference (root, name, digest): a loader worker reads the index itself.
    """

    def __init__(self, shard_set: ShardSet, name: str) -> None:
        self.shard_set, self.name = shard_set, name
        self.class_names = shard_set.class_names[name]
        owned = [i for i, split in enumerate(shard_set.file_splits) if split == name]
        self._first_shard = owned[0]
        self.files = [shard_set.files[i] for i in owned]
        self.shard_files: list[Location] = [shard_set.root / file.name for file in self.files]
        self.shard_sizes = np.array([file.samples for file in self.files], np.int64)

    def __len__(self) -> int:
        return int(self.shard_sizes.sum())

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_split, (self.shard_set.root, self.name, self.shard_set.digest)

    @property
    def labels(self) -> NDArray[np.int32]:
        """Class numbers from 0 within the split, (N,)."""
        return self._numbers["label"]

    @property
    def shards(self) -> NDArray[np.int32]:
        """Positions in `shard_files`, (N,)."""
        return self._numbers["shard"]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """First byte of each image within its shard, (N,)."""
        return self._numbers["offset"]

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Bytes of each image, (N,)."""
        return self._numbers["size"]

    @property
    def crc32(self) -> NDArray[np.uint32]:
        """Checksum of each image's bytes, (N,)."""
        return self._numbers["crc32"]

    @cached_property
    def image_sizes(self) -> NDArray[np.int16]:
        """Width and height in pixels, (N, 2)."""
        table = self._read("width", "height")
        return np.stack([table[name].to_numpy() for name in ("width", "height")], 1)

    @cached_property
    def keys(self) -> Any:
        """Sample keys, an Arrow string array (N,); read when first needed."""
        return self._read("key")["key"].combine_chunks()

    def key(self, row: int) -> str:
        """Return the key of one sample."""
        return str(self.keys[int(row)].as_py())

    @cached_property
    def extensions(self) -> list[str]:
        """File extension of each image, (N,)."""
        return list(self._read("ext")["ext"].to_pylist())

    def extra(self, name: str) -> list[str]:
        """Return an additional column, (N,); raises ShardError when there is none such."""
        known = self.shard_set.extra_names
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ShardError(
                f"{self.shard_set.root}: no column {name!r}{did_you_mean(name, known)}; "
                f"additional columns: {listed}"
            )
        return list(self._read(name)[name].to_pylist())

    def class_rows(self) -> ClassRows:
        """Return the rows grouped by class."""
        return self._class_rows

    @cached_property
    def _class_rows(self) -> ClassRows:
        return ClassRows.grouped(self.labels, len(self.class_names))

    @cached_property
    def _numbers(self) -> dict[str, NDArray[Any]]:
        table = self._read("label", "shard", "offset", "size", "crc32")
        numbers = {name: np.array(table[name].to_numpy()) for name in table.column_names}
        numbers["shard"] -= np.int32(self._first_shard)
        for values in numbers.values():
            values.setflags(write=False)
        return numbers

    def _read(self, *columns: str) -> Any:
        """Return the split's rows of some columns, from the row groups that hold them."""
        where = self.shard_set.root / INDEX_NAME
        before = sum(file.samples for file in self.shard_set.files[: self._first_shard])
        parquet = _parquet(where)
        counts = [
            parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)
        ]
        ends = np.cumsum(counts)
        groups = np.flatnonzero((ends > before) & (ends - counts < before + len(self)))
        try:
            table = parquet.read_row_groups(groups.tolist(), columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"{where}: damaged: {error}; {self.shard_set.remedy}") from None
        first = before - int((ends - counts)[groups[0]]) if groups.size else 0
        table = table.slice(first, len(self))
        if table.num_rows != len(self):
            raise ShardError(
                f"{where}: {table.num_rows} rows of split {self.name!r}, its shards hold "
                f"{len(self)}; {self.shard_set.remedy}"
            )
        return table


def _open_split(root: Location, name: str, digest: str) -> Split:
    shard_set = ShardSet.open(root)
    if shard_set.digest != digest:
        raise ShardError(f"{root}: the shard set was replaced while it was in use; start again")
    return shard_set.split(name)


def _parquet(where: Location) -> Any:
    try:
        return pq.ParquetFile(where.open_input(), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(
            f"{where}: not a readable Parquet file ({error}); write the shards again (tars that "
            "others wrote: index them again)"
        ) from None


def read_index(root: Location) -> Any:
    """Return the whole index as an Arrow table, in row order."""
    return _parquet(root / INDEX_NAME).read()


def _metadata(where: Location, schema: Any) -> dict[str, Any]:
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ShardError(
            f"{where}: a Parquet file, but not an index of shards; move it away and index again"
        )
    metadata: dict[str, Any] = json.loads(raw)
    if metadata.get("format") != FORMAT:
        raise ShardError(
            f"{where}: format version {metadata.get('format')}, this program reads {FORMAT}; "
            "index the shards again, or use the version that wrote it"
        )
    return metadata


def split_order(names: Sequence[str]) -> list[str]:
    """Return split names in the customary order: training, validation, test, then others."""
    rank = {name: i for i, name in enumerate(("base", "train", "val", "novel", "test", "held_out"))}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))
