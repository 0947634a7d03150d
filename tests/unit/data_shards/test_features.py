"""Feature tables: what goes in comes out in the split's order, and anything else is refused."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_shards.episodes import EpisodeBank
from data_shards.feature_parts import METADATA_KEY, FeatureMeta
from data_shards.feature_writer import KeyedRows, PartWriter, write_features
from data_shards.features import FeatureSet
from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.errors import ConfigError, ShardError

META = FeatureMeta("d" * 64, "w" * 64, {"size": 28, "mean": (0.5,)}, 3, {"recipe": "x.yaml"})
ROWS = KeyedRows("base", ["a", "b", "c"], np.array([2, 0, 1, 0, 2, 1, 0], np.int32),
                 [f"k{i}" for i in range(7)])  # fmt: skip
VECTORS = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)


def written(root: Path, rows: KeyedRows = ROWS, rows_per_part: int = 3, **changes: Any) -> Location:
    where = Location.parse(root)
    meta = replace(META, **changes)
    write_features(where, rows, {"feature": VECTORS}, meta, rows_per_part)
    return where


def rewritten(file: Path, edit: Any, **metadata: Any) -> None:
    """Write a part anew after `edit(table)`, with its own metadata or the given."""
    table = pq.read_table(file)
    kept = metadata or table.schema.metadata
    pq.write_table(edit(table).replace_schema_metadata(kept), file)


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    feature_set = FeatureSet.open(written(tmp_path))
    split = feature_set.split("base")
    assert [file.name for file in split.files] == [
        f"base-0000{i}-of-00003.parquet" for i in range(3)
    ]
    assert split.labels.tolist() == ROWS.labels.tolist()
    assert [split.key(row) for row in range(len(split))] == ROWS.keys
    assert split.class_names == ROWS.class_names
    assert split.shard_sizes.tolist() == [3, 3, 1]
    assert np.array_equal(split.vectors(), VECTORS)
    assert split.vectors() is split.vectors("feature")
    assert split.vectors().dtype == np.float32
    assert not split.vectors().flags.writeable
    assert [split.class_rows().of(label).tolist() for label in range(3)] == [
        [1, 3, 6], [2, 5], [0, 4],
    ]  # fmt: skip
    assert (feature_set.meta, feature_set.widths) == (META, {"feature": 4})
    assert feature_set.meta.source == {"recipe": "x.yaml"}


def test_a_small_split_is_one_file_that_pyarrow_alone_can_read(tmp_path: Path) -> None:
    written(tmp_path, rows_per_part=7)
    table = pq.read_table(tmp_path / "base.parquet")
    assert table.schema.field("feature").type == pa.list_(pa.float32(), 4)
    assert table["key"].to_pylist() == ROWS.keys
    assert np.array_equal(np.stack(table["feature"].to_numpy()), VECTORS)


def test_several_vectors_per_row_are_told_apart_by_name(tmp_path: Path) -> None:
    where = Location.parse(tmp_path)
    write_features(where, ROWS, {"cls": VECTORS, "mean": VECTORS[:, :2]}, META)
    split = FeatureSet.open(where).split("base")
    assert np.array_equal(split.vectors("mean"), VECTORS[:, :2])
    with pytest.raises(ShardError, match=r"name one of its vectors: \['cls', 'mean'\]"):
        split.vectors()
    with pytest.raises(ShardError, match="no vectors 'means'; did you mean 'mean'"):
        split.vectors("means")


def test_the_digest_names_the_content_and_not_the_place(tmp_path: Path) -> None:
    digests = [FeatureSet.open(written(tmp_path / name)).digest for name in "ab"]
    moved = FeatureSet.open(written(tmp_path / "c", source={"recipe": "y.yaml"})).digest
    other = [
        written(tmp_path / "d", weights="v" * 64),
        written(tmp_path / "e", rows=ROWS._replace(keys=[*ROWS.keys[:-1], "z"])),
        written(tmp_path / "f", rows=ROWS._replace(labels=ROWS.labels[::-1])),
        written(tmp_path / "g", rows=ROWS._replace(class_names=["a", "b", "z"])),
    ]
    assert digests[0] == digests[1] == moved
    assert len({digests[0], *(FeatureSet.open(where).digest for where in other)}) == 5


def test_sealed_episodes_of_the_images_fit_their_features(
    tmp_path: Path, shard_set: ShardSet
) -> None:
    where, images = Location.parse(tmp_path / "features"), shard_set.split("novel")
    meta = replace(META, data=shard_set.digest)
    vectors = np.arange(len(images), dtype=np.float32)[:, None]
    write_features(where, images, {"feature": vectors}, meta, rows_per_part=4)
    features = cast(Any, FeatureSet.open(where).split("novel"))
    assert [features.key(i) for i in range(len(images))] == images.keys.to_pylist()
    bank = EpisodeBank.make(images, 2, 1, 2, tasks=5, seed=0)
    bank.refuse_other(features)
    assert EpisodeBank.make(features, 2, 1, 2, tasks=5, seed=0).digest == bank.digest


def test_a_pickled_split_is_a_reference(tmp_path: Path) -> None:
    split = FeatureSet.open(written(tmp_path)).split("base")
    split.vectors()
    content = pickle.dumps(split)
    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content).vectors(), VECTORS)
    for file in split.files:
        file.delete()
    write_features(split.feature_set.root, ROWS, {"feature": VECTORS + 1}, META, 3)
    with pytest.raises(ShardError, match="replaced while they were in use"):
        pickle.loads(content)


def test_only_missing_and_damaged_parts_are_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = PartWriter(written(tmp_path), ROWS, META, rows_per_part=3)
    assert writer.missing() == []
    files = [tmp_path / f"base-0000{i}-of-00003.parquet" for i in range(3)]
    kept = files[1].stat().st_mtime_ns
    files[0].unlink()
    files[2].write_bytes(files[2].read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        assert writer.missing() == [0, 2]
    assert "base-00002-of-00003.parquet: not readable features" in caplog.text
    for part in writer.missing():
        writer.write(part, {"feature": VECTORS[writer.rows(part)]})
    assert files[1].stat().st_mtime_ns == kept
    assert np.array_equal(FeatureSet.open(writer.directory).split("base").vectors(), VECTORS)


def test_features_of_something_else_are_not_overwritten(tmp_path: Path) -> None:
    where = written(tmp_path)
    for rows, meta, size, message in (
        (ROWS, replace(META, weights="v" * 64), 3, "other images or another checkpoint"),
        (ROWS._replace(keys=ROWS.keys[::-1]), META, 3, "other images or another checkpoint"),
        (ROWS, META, 4, "a table of 3 parts, this one has 2"),
    ):
        with pytest.raises(ShardError, match=message):
            PartWriter(where, rows, meta, size).missing()


def test_a_table_that_is_not_complete_is_not_opened(tmp_path: Path) -> None:
    where = written(tmp_path)
    (tmp_path / "base-00001-of-00003.parquet").unlink()
    with pytest.raises(ShardError, match=r"base-00001-of-00003.parquet is missing"):
        FeatureSet.open(where)
    (tmp_path / "base-00002-of-00003.parquet").unlink()
    with pytest.raises(ShardError, match=r"base-00001-of-00003.parquet is missing"):
        FeatureSet.open(where)
    with pytest.raises(ShardError, match="no feature tables"):
        FeatureSet.open(where / "elsewhere")


def test_tables_of_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    where = written(tmp_path)
    write_features(where, ROWS._replace(name="novel"), {"feature": VECTORS}, replace(META, seed=4))
    with pytest.raises(ShardError, match=r"novel.parquet: from another checkpoint"):
        FeatureSet.open(where)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-20], "not readable features"),
        (lambda content: content[:40] + b"\x55" * 30 + content[70:], "not readable features"),
        (lambda content: b"", "not readable features"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    where = written(tmp_path, rows_per_part=7)
    file = tmp_path / "base.parquet"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ShardError, match=rf"base\.parquet: {message}.*extract the features again"):
        FeatureSet.open(where).split("base").keys[0]


def test_edited_columns_are_refused(tmp_path: Path) -> None:
    where = written(tmp_path, rows_per_part=7)
    file = tmp_path / "base.parquet"
    labels = pa.array(ROWS.labels[::-1].copy())
    rewritten(file, lambda table: table.set_column(1, "label", labels))
    split = FeatureSet.open(where).split("base")
    assert np.array_equal(split.vectors(), VECTORS)
    with pytest.raises(ShardError, match="column 'label' was changed after it was written"):
        _ = split.labels
    rewritten(file, lambda table: table.drop_columns("feature"))
    with pytest.raises(ShardError, match="not readable features"):
        FeatureSet.open(where).split("base").vectors()
    rewritten(file, lambda table: table.slice(2))
    with pytest.raises(ShardError, match="5 rows, its own description says 7"):
        FeatureSet.open(where)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"x": b"{}"}, "a Parquet file, but not of features; move it away"),
        ({METADATA_KEY: b'{"format": 9}'}, "format version 9, this program reads 1"),
        ({METADATA_KEY: b'{"format": 1, "meta": {}}'}, "not readable features"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, metadata: Any, message: str) -> None:
    where = written(tmp_path, rows_per_part=7)
    file = tmp_path / "base.parquet"
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(ShardError, match=rf"base\.parquet: .*{message}"):
        FeatureSet.open(where)


def test_a_renamed_part_is_refused(tmp_path: Path) -> None:
    where = written(tmp_path, rows_per_part=7)
    (tmp_path / "base.parquet").rename(tmp_path / "novel.parquet")
    with pytest.raises(ShardError, match=r"novel.parquet: holds what belongs into base.parquet"):
        FeatureSet.open(where)


def test_unusable_vectors_are_not_written(tmp_path: Path) -> None:
    where, broken = Location.parse(tmp_path), VECTORS.copy()
    broken[4, 1] = np.nan
    for rows, vectors, message in (
        (ROWS, {"feature": broken}, "feature of 'k4' is not finite"),
        (ROWS, {"feature": VECTORS[:5]}, "5 vectors 'feature' for the 7 rows"),
        (ROWS, {"feature": VECTORS[:, 0]}, r"has shape \(7,\)"),
        (ROWS, {"label": VECTORS}, "cannot be called 'label'"),
        (ROWS._replace(labels=ROWS.labels[:0], keys=[]), {}, "no rows to write features of"),
    ):
        with pytest.raises((ShardError, ConfigError), match=message):
            write_features(where, rows, vectors, META)
    assert list(tmp_path.iterdir()) == []


def test_the_splits_stand_in_the_customary_order(tmp_path: Path) -> None:
    where = written(tmp_path, rows=ROWS._replace(name="novel"))
    written(tmp_path)
    feature_set = FeatureSet.open(where)
    assert feature_set.splits == ["base", "novel"]
    assert len(feature_set) == 14
    assert "novel            3         7        2..3      3" in feature_set.describe()
    with pytest.raises(ShardError, match="no features of split 'bas'; did you mean 'base'"):
        feature_set.split("bas")


def test_tables_on_s3_are_the_tables_on_disk(tmp_path: Path, s3_root: str) -> None:
    bucket = Location.parse(s3_root) / "features"
    write_features(bucket, ROWS, {"feature": VECTORS}, META, 3)
    there = FeatureSet.open(bucket)
    assert there.digest == FeatureSet.open(written(tmp_path)).digest
    assert np.array_equal(there.split("base").vectors(), VECTORS)
    writer = PartWriter(bucket, ROWS, META, 3)
    writer.where(1).delete()
    assert writer.missing() == [1]
