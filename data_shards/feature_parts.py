"""One Parquet file of a feature table: keys, labels and vectors of consecutive rows of a split.

The schema's metadata says which rows they are, what made the vectors, and the sha256 of every
column, so that a damaged, edited or foreign file is told apart from a whole one.

Letters in shapes: n rows of a part, N rows of the split, D features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_shards.location import Location
from fsl.errors import ShardError

F32 = NDArray[np.float32]

FORMAT = 1
METADATA_KEY = b"fewshot-features"
REMEDY = "delete it and extract the features again"


class DamagedPartError(ShardError):
    """A part cannot be read, or not all of it is as it was written."""


@dataclass(frozen=True)
class FeatureMeta:
    """What the vectors of a feature table were made from.

    Attributes:
        data: digest of the shard set whose images they describe; sealed episodes fit both.
        weights: digest of the checkpoint's weights; None when unknown.
        preparation: how the images were prepared (size, crop, normalisation).
        seed: seed of the extraction; None when nothing in it was random.
        source: notes for people (recipe, file names); not part of any digest.
    """

    data: str
    weights: str | None
    preparation: Mapping[str, Any]
    seed: int | None = None
    source: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:  # what is read back from JSON must compare equal
        object.__setattr__(self, "preparation", json.loads(json.dumps(self.preparation)))

    def identity(self) -> dict[str, Any]:
        """Return what can change a result, as JSON."""
        values = dataclasses.asdict(self)
        del values["source"]
        return values


@dataclass(frozen=True)
class PartHeader:
    """What the metadata of one part says.

    Attributes:
        split: name of the split.
        class_names: classes of the split, in label order.
        part: number of the part, from 0.
        parts: number of parts of the split.
        first: row of the split that the part begins with.
        rows: rows of the part.
        total: rows of the split.
        widths: per vector, its number of features D.
        meta: what the vectors were made from.
        digests: sha256 of each column.
    """

    split: str
    class_names: list[str]
    part: int
    parts: int
    first: int
    rows: int
    total: int
    widths: dict[str, int]
    meta: FeatureMeta
    digests: dict[str, str]

    def same_table(self, other: PartHeader) -> bool:
        """Return whether two parts belong to one table and one writing of it."""
        ours, theirs = (
            (part.split, part.class_names, part.parts, part.total, part.widths, part.meta)
            for part in (self, other)
        )
        return ours == theirs


def part_name(split: str, part: int, parts: int) -> str:
    """Return the file name of a part: `base.parquet` or `base-00000-of-00004.parquet`."""
    return f"{split}.parquet" if parts == 1 else f"{split}-{part:05d}-of-{parts:05d}.parquet"


def column_digest(values: Sequence[str] | NDArray[Any]) -> str:
    """Return the sha256 of keys, of labels (n,) or of vectors (n, D)."""
    if isinstance(values, np.ndarray):
        kind = "<f4" if values.dtype.kind == "f" else "<i4"
        return hashlib.sha256(np.ascontiguousarray(values, kind).data).hexdigest()
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()


def write_part(
    where: Location,
    header: PartHeader,
    keys: Sequence[str],
    labels: NDArray[np.integer],
    vectors: Mapping[str, F32],
) -> None:
    """Write one part, all or nothing. The header's digests are those of the columns given."""
    columns: dict[str, Any] = {
        "key": pa.array(keys, pa.string()),
        "label": pa.array(np.asarray(labels, np.int32)),
    }
    for name, values in vectors.items():
        flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(header)})
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: text.encode()})
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=False,  # numbers hardly repeat
        row_group_size=max(1, len(keys)),
        write_page_checksum=True,
    )
    where.parent.make_dir()
    where.write_bytes(sink.getvalue())


def read_header(where: Location) -> PartHeader:
    """Return what a part says of itself; raises ShardError when it is none of ours."""
    parquet = _opened(where)
    raw = (parquet.schema_arrow.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ShardError(f"{where}: a Parquet file, but not of features; move it away")
    header = _header(where, json.loads(raw))
    expected = part_name(header.split, header.part, header.parts)
    if where.name != expected:
        raise ShardError(f"{where}: holds what belongs into {expected}; give it that name")
    if parquet.metadata.num_rows != header.rows:
        raise DamagedPartError(
            f"{where}: {parquet.metadata.num_rows} rows, its own description says "
            f"{header.rows}; {REMEDY}"
        )
    return header


def _header(where: Location, values: dict[str, Any]) -> PartHeader:
    version = values.pop("format", None)
    if version != FORMAT:
        raise ShardError(
            f"{where}: features of format version {version}, this program reads {FORMAT}; "
            "extract them again, or use the version that wrote them"
        )
    try:
        return PartHeader(**values | {"meta": FeatureMeta(**values["meta"])})
    except (KeyError, TypeError) as error:
        raise _damaged(where, error) from None


def read_column(where: Location, header: PartHeader, name: str) -> Any:
    """Return keys (list), labels (n,) int32 or vectors (n, D) float32; raises if changed."""
    parquet = _opened(where)
    values: Any
    try:
        column = parquet.read(columns=[name])[name].combine_chunks()
        if name == "key":
            values = column.to_pylist()
        elif name == "label":
            values = column.to_numpy(zero_copy_only=False)
        else:
            values = column.flatten().to_numpy(zero_copy_only=False)
            values = values.reshape(-1, header.widths[name])  # (n, D)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(where, error) from None
    if column_digest(values) != header.digests[name]:
        changed = f"column {name!r} was changed after it was written"
        raise DamagedPartError(f"{where}: {changed}; {REMEDY}")
    return values


def _opened(where: Location) -> Any:
    try:
        return pq.ParquetFile(where.open_input(), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(where, error) from None


def _damaged(where: Location, error: Exception) -> DamagedPartError:
    reason = " ".join(str(error).split())
    return DamagedPartError(f"{where}: not readable features: {reason}; {REMEDY}")
