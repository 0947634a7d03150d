"""The index: what goes in comes out, and anything else is refused with the reason."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_shards.location import Location
from data_shards.manifest import INDEX_NAME, METADATA_KEY, ShardFile, ShardSet, split_order
from data_shards.manifest_builder import ManifestBuilder
from fsl.errors import ShardError

Samples = dict[str, dict[str, dict[str, bytes]]]
CLASSES = {"base": ["a", "b"], "novel": ["c"]}


def row(number: int, **changes: object) -> dict[str, object]:
    return {
        "key": f"k{number}", "split": "base", "label": number % 2, "offset": 1024 * number + 512,
        "shard_name": "base/x-0.tar", "size": 9, "ext": "png", "crc32": 2**32 - 1 - number,
        "width": 4, "height": 3, **changes,
    }  # fmt: skip


def build(root: Path, rows: list[dict[str, object]], **changes: object) -> ShardSet:
    builder = ManifestBuilder(CLASSES, 1, {"name": "test"})
    names: dict[str, int] = {}
    for values in rows:
        builder.add(**values)  # type: ignore[arg-type]
        names[str(values["shard_name"])] = names.get(str(values["shard_name"]), 0) + 1
    samples = changes.get("samples", names)
    assert isinstance(samples, dict)
    files = [ShardFile(name, 10240, count, "0" * 64) for name, count in samples.items()]
    return builder.finish(Location.parse(root), files)


def three_shards() -> list[dict[str, object]]:
    rows = [row(n) for n in (3, 1, 2)]
    rows += [row(n, shard_name="base/w-0.tar") for n in (5, 4)]
    rows += [row(n, split="novel", label=0, shard_name="novel/n-0.tar") for n in (1, 0)]
    return rows


def test_rows_are_sorted_by_shard_and_offset_within_their_split(tmp_path: Path) -> None:
    shard_set = build(tmp_path, three_shards())
    base, novel = (shard_set.split(name) for name in shard_set.splits)
    assert [file.name for file in base.files] == ["base/w-0.tar", "base/x-0.tar"]
    assert base.shard_sizes.tolist() == [2, 3]
    assert base.keys.to_pylist() == ["k4", "k5", "k1", "k2", "k3"]
    assert base.shards.tolist() == [0, 0, 1, 1, 1]
    assert novel.shards.tolist() == [0, 0]
    assert base.offsets.tolist() == [1024 * n + 512 for n in (4, 5, 1, 2, 3)]
    assert base.crc32.tolist() == [2**32 - 1 - n for n in (4, 5, 1, 2, 3)]
    assert base.labels.tolist() == [0, 1, 1, 0, 1]
    assert base.image_sizes.tolist() == [[4, 3]] * 5
    assert (len(shard_set), len(base), len(novel)) == (7, 5, 2)
    assert str(novel.shard_files[0]) == str(tmp_path / "novel/n-0.tar")


def test_rows_are_grouped_by_class(shard_set: ShardSet) -> None:
    split = shard_set.split("base")
    grouped = split.class_rows()
    assert grouped.counts.tolist() == [5, 5, 5]
    for label in range(3):
        assert grouped.of(label).tolist() == np.flatnonzero(split.labels == label).tolist()


def test_arrays_cannot_be_changed_by_accident(shard_set: ShardSet) -> None:
    with pytest.raises(ValueError, match="read-only"):
        shard_set.split("base").labels[0] = 1


def test_additional_columns_come_back_and_others_get_the_near_match(shard_set: ShardSet) -> None:
    assert shard_set.split("novel").extra("letter")[:2] == ["e", "d"]
    with pytest.raises(ShardError, match="no column 'leter'; did you mean 'letter'"):
        shard_set.split("novel").extra("leter")


def test_a_split_pickles_as_a_reference(shard_set: ShardSet) -> None:
    split = shard_set.split("base")
    assert split.labels.size
    pickled = pickle.dumps(split)
    assert len(pickled) < 600
    assert np.array_equal(pickle.loads(pickled).offsets, split.offsets)


def test_the_digest_ignores_place_offsets_and_file_names(tmp_path: Path) -> None:
    first = build(tmp_path / "one", three_shards())
    moved = [{**r, "offset": int(str(r["offset"])) * 2, "extra": {"origin": "x"}}
             for r in three_shards()]  # fmt: skip
    second = build(tmp_path / "two", moved)
    assert first.digest == second.digest
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    assert ShardSet.open(Location.parse(tmp_path / "three")).digest == first.digest


@pytest.mark.parametrize(
    "change", [{"crc32": 5}, {"size": 8}, {"key": "z"}, {"label": 1}, {"extra": {"alphabet": "x"}}]
)
def test_the_digest_notices_whatever_can_change_a_result(
    tmp_path: Path, change: dict[str, object]
) -> None:
    rows = [row(2), row(4), row(0, shard_name="novel/n.tar", split="novel")]
    extra = change.get("extra", {})
    changed = [{**values, "extra": extra} for values in rows]
    changed[0] |= change
    assert build(tmp_path / "a", rows).digest != build(tmp_path / "b", changed).digest


def test_a_long_split_spans_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_shards.manifest_builder.ROW_GROUP", 2)
    shard_set = build(tmp_path, three_shards())
    assert pq.ParquetFile(tmp_path / INDEX_NAME).metadata.num_row_groups == 4
    assert shard_set.split("novel").keys.to_pylist() == ["k0", "k1"]
    assert shard_set.split("base").keys.to_pylist() == ["k4", "k5", "k1", "k2", "k3"]


def test_an_unknown_split_gets_the_near_match(shard_set: ShardSet) -> None:
    with pytest.raises(ShardError, match="no split 'nove'; did you mean 'novel'"):
        shard_set.split("nove")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(0), row(1, key="k0"), row(0, split="novel", shard_name="n.tar")],
            "base/x-0.tar: key 'k0' at byte 1536 occurs twice",
        ),
        ([row(0, label=2)], "label 2, but 'base' has 2 classes"),
        ([row(0, label=-1)], "label -1, but 'base' has 2 classes"),
        ([row(0, split="bose")], "split 'bose' is none of"),
        ([row(0), row(1, split="novel", label=0)], "x-0.tar: holds samples of two splits"),
        ([row(0)], "split 'novel' has no samples"),
        ([row(0), row(1, extra={"a": "b"})], "give every sample the same"),
        ([row(0, width=40_000)], "width 40000 is beyond the index's limit"),
    ],
)
def test_rows_that_cannot_be_are_refused(
    tmp_path: Path, rows: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(ShardError, match=message):
        build(tmp_path, rows)
    assert not (tmp_path / INDEX_NAME).exists()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"base/x-0.tar": 2}, "1 samples were added, the shard is said to hold 2"),
        ({"base/x-0.tar": 1, "base/y.tar": 0}, "disagree about: .*base/y.tar"),
        ({}, "disagree about: .*base/x-0.tar"),
    ],
)
def test_shards_that_do_not_fit_the_rows_are_refused(
    tmp_path: Path, samples: dict[str, int], message: str
) -> None:
    with pytest.raises(ShardError, match=message):
        build(tmp_path, [row(0)], samples=samples)


def test_a_directory_without_an_index_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no index.parquet, .*fewshot shards write.*shards index"):
        ShardSet.open(Location.parse(tmp_path))


@pytest.mark.parametrize("content", [b"", b"text", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_damaged_index_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / INDEX_NAME).write_bytes(content)
    with pytest.raises(ShardError, match=r"index.parquet: not a readable Parquet file"):
        ShardSet.open(Location.parse(tmp_path))


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / INDEX_NAME)
    with pytest.raises(ShardError, match="a Parquet file, but not an index of shards"):
        ShardSet.open(Location.parse(tmp_path))


def test_another_format_version_is_refused(shard_set: ShardSet) -> None:
    path = shard_set.root.local
    assert path is not None
    table = pq.read_table(path / INDEX_NAME)
    metadata = json.loads(table.schema.metadata[METADATA_KEY]) | {"format": 99}
    changed = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)})
    pq.write_table(changed, path / INDEX_NAME)
    with pytest.raises(ShardError, match="format version 99, this program reads 1"):
        ShardSet.open(shard_set.root)


def test_a_missing_column_is_refused(shard_set: ShardSet) -> None:
    path = shard_set.root.local
    assert path is not None
    table = pq.read_table(path / INDEX_NAME)
    pq.write_table(table.drop_columns(["crc32"]), path / INDEX_NAME)
    with pytest.raises(ShardError, match="column 'crc32' of type uint32 is missing"):
        ShardSet.open(shard_set.root)


def test_splits_come_in_the_customary_order() -> None:
    assert split_order(["odd", "novel", "base", "val"]) == ["base", "val", "novel", "odd"]
