"""Collects the rows of an index while shards are written or scanned, and writes it."""

from __future__ import annotations

import hashlib
import io
import json
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_shards.location import Location
from data_shards.manifest import (
    COLUMNS,
    FORMAT,
    INDEX_NAME,
    METADATA_KEY,
    ClsHolds,
    ShardFile,
    ShardSet,
)
from fsl.errors import ShardError

ROW_GROUP = 1 << 18
DIGEST_COLUMNS = ("key", "label", "size", "ext", "crc32")
PROVENANCE = ("origin",)
"""Additional columns that tell where a sample came from; they cannot change a result."""


class ManifestBuilder:
    """Rows in any order in, `index.parquet` out.

    Args:
        class_names: per split, class names in label order.
        seed: seed of the packing shuffle; None when unknown.
        source: JSON-able description of what the samples came from.
        cls_holds: what the `.cls` members of the tars hold, the label number or the class name.
    """

    def __init__(
        self,
        class_names: Mapping[str, Sequence[str]],
        seed: int | None,
        source: Mapping[str, Any],
        cls_holds: ClsHolds = "number",
    ) -> None:
        self.class_names = {split: list(names) for split, names in class_names.items()}
        self.seed, self.source, self.cls_holds = seed, dict(source), cls_holds
        self._split_number = {split: i for i, split in enumerate(self.class_names)}
        self._keys: list[str] = []
        self._shard_names: dict[str, int] = {}
        self._numbers = {
            "split": array("b"), "label": array("i"), "shard": array("i"), "offset": array("q"),
            "size": array("i"), "crc32": array("I"), "width": array("h"), "height": array("h"),
        }  # fmt: skip
        self._ext: list[str] = []
        self._extra: dict[str, list[str]] = {}

    def add(
        self,
        key: str,
        split: str,
        label: int,
        *,
        shard_name: str,
        offset: int,
        size: int,
        ext: str,
        crc32: int,
        width: int,
        height: int,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        """Add one sample; `offset` is that of the image's first byte, `ext` without the dot."""
        where = f"{shard_name}: sample {key!r}"
        if split not in self._split_number:
            raise ShardError(f"{where}: split {split!r} is none of {list(self.class_names)}")
        if not 0 <= label < len(self.class_names[split]):
            raise ShardError(
                f"{where}: label {label}, but {split!r} has {len(self.class_names[split])} classes"
            )
        if not self._keys:
            self._extra = {name: [] for name in sorted(extra or {})}
        if sorted(extra or {}) != list(self._extra):
            raise ShardError(
                f"{where}: additional columns {sorted(extra or {})}, earlier samples have "
                f"{list(self._extra)}; give every sample the same"
            )
        values = {
            "split": self._split_number[split], "label": label, "offset": offset, "size": size,
            "shard": self._shard_names.setdefault(shard_name, len(self._shard_names)),
            "crc32": crc32, "width": width, "height": height,
        }  # fmt: skip
        try:
            for name, value in values.items():
                self._numbers[name].append(value)
        except OverflowError:
            raise ShardError(
                f"{where}: {name} {value} is beyond the index's limit (images up to 32767 px and "
                "2 GiB); shrink or leave out the image"
            ) from None
        self._keys.append(key)
        self._ext.append(ext)
        for name, text in (extra or {}).items():
            self._extra[name].append(text)

    def __len__(self) -> int:
        return len(self._keys)

    def finish(self, root: Location, shards: Sequence[ShardFile]) -> ShardSet:
        """Write `index.parquet` under `root` (aside, then renamed) and return the opened set.

        Args:
            root: directory of the shard set.
            shards: every shard that was named in `add`, with its size and checksum.

        Raises:
            ShardError: rows and shards disagree, an empty split, or a key that occurs twice.
        """
        files, file_splits = self._arrange(shards)
        table = self._table(files)
        metadata = {
            "format": FORMAT,
            "digest": content_digest(table, self.class_names, files, file_splits),
            "classes": self.class_names,
            "seed": self.seed,
            "source": self.source,
            "cls_holds": self.cls_holds,
            "shards": [
                {"name": f.name, "split": s, "bytes": f.bytes, "samples": f.samples,
                 "sha256": f.sha256}
                for f, s in zip(files, file_splits, strict=True)
            ],
        }  # fmt: skip
        table = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode()})
        (root / INDEX_NAME).write_bytes(_serialise(table))
        return ShardSet.open(root)

    def _arrange(self, shards: Sequence[ShardFile]) -> tuple[list[ShardFile], list[str]]:
        """Return the shards sorted by (split, name), and the split of each."""
        names = list(self._shard_names)
        given = {file.name: file for file in shards}
        if set(names) != set(given) or len(given) != len(shards):
            odd = sorted(set(names) ^ set(given)) or "the same name twice"
            raise ShardError(f"samples and list of shards disagree about: {odd}")
        shard, split = (np.asarray(self._numbers[name]) for name in ("shard", "split"))
        counts = np.bincount(shard, minlength=len(names))
        owner = np.zeros(len(names), np.int64)
        owner[shard] = split
        mixed = np.flatnonzero(owner[shard] != split)
        if mixed.size:
            raise ShardError(
                f"{names[shard[mixed[0]]]}: holds samples of two splits; separate them"
            )
        for number, name in enumerate(names):
            if counts[number] != given[name].samples:
                raise ShardError(
                    f"{name}: {counts[number]} samples were added, the shard is said to hold "
                    f"{given[name].samples}"
                )
        empty = [s for s, number in self._split_number.items() if number not in set(owner.tolist())]
        if empty:
            raise ShardError(f"split {empty[0]!r} has no samples; leave it out or fill it")
        splits = list(self.class_names)
        order = sorted(range(len(names)), key=lambda i: (owner[i], names[i]))
        return [given[names[i]] for i in order], [splits[owner[i]] for i in order]

    def _table(self, files: Sequence[ShardFile]) -> Any:
        """Return all rows as an Arrow table in row order."""
        position = {file.name: i for i, file in enumerate(files)}
        numbers = {name: np.asarray(values) for name, values in self._numbers.items()}
        renumber = np.array([position[name] for name in self._shard_names], np.int32)
        numbers["shard"] = renumber[numbers["shard"]]
        order = np.lexsort((numbers["offset"], numbers["shard"]))
        columns: dict[str, Any] = {
            name: pa.array(values[order], COLUMNS[name])
            for name, values in numbers.items()
            if name != "split"
        }
        columns["split"] = pa.DictionaryArray.from_arrays(
            pa.array(numbers["split"][order], pa.int8()), pa.array(list(self.class_names))
        )
        columns["key"] = pa.array(self._keys).take(pa.array(order))
        columns["ext"] = pa.array(self._ext).take(pa.array(order)).cast(COLUMNS["ext"])
        self._refuse_repeated_keys(files, columns)
        extra = {
            name: pa.array(texts, pa.string()).take(pa.array(order))
            for name, texts in self._extra.items()
        }
        return pa.table({name: columns[name] for name in COLUMNS} | extra)

    def _refuse_repeated_keys(self, files: Sequence[ShardFile], columns: Mapping[str, Any]) -> None:
        seen: set[tuple[int, str]] = set()
        splits = columns["split"].indices.to_pylist()
        for i, pair in enumerate(zip(splits, columns["key"].to_pylist(), strict=True)):
            if pair in seen:
                shard, offset = columns["shard"][i].as_py(), columns["offset"][i].as_py()
                raise ShardError(
                    f"{files[shard].name}: key {pair[1]!r} at byte {offset} occurs twice in split "
                    f"{list(self.class_names)[pair[0]]!r}; keys must be unique"
                )
            seen.add(pair)


def content_digest(
    table: Any,
    class_names: Mapping[str, Sequence[str]],
    files: Sequence[ShardFile],
    file_splits: Sequence[str],
) -> str:
    """Return the sha256 of what can change a result, given the rows in row order.

    Tar headers, offsets and file names stay out: the same images, classes and order packed
    elsewhere or at another time are the same data.
    """
    sizes = [(split, file.samples) for file, split in zip(files, file_splits, strict=True)]
    extras = sorted(name for name in table.column_names if name not in {*COLUMNS, *PROVENANCE})
    head = json.dumps([FORMAT, dict(class_names), sizes, extras], separators=(",", ":"))
    total = hashlib.sha256(head.encode())
    for name in (*DIGEST_COLUMNS, *extras):
        column = table[name]
        if pa.types.is_integer(column.type):
            total.update(column.to_numpy().tobytes())
        else:
            total.update("\0".join(column.to_pylist()).encode())
        total.update(b"\1")
    return total.hexdigest()


def _serialise(table: Any) -> bytes:
    """Return Parquet bytes in which every split begins a row group."""
    sink = io.BytesIO()
    split = table["split"].combine_chunks().indices.to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(split)) + 1).tolist(), len(split)]
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", write_page_checksum=True
    ) as writer:
        for start, stop in pairwise(starts):
            writer.write_table(table.slice(start, stop - start), row_group_size=ROW_GROUP)
    return sink.getvalue()
