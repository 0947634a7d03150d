"""Feature tables that are already there are kept if they are the same, and else never touched."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_shards.feature_parts import METADATA_KEY
from data_shards.feature_writer import PartWriter, write_features
from data_shards.features import FeatureSet
from data_shards.leo import import_leo
from data_shards.location import Location
from fsl.errors import ShardError
from tests.unit.data_shards.test_features import META, ROWS, VECTORS, written
from tests.unit.data_shards.test_leo import EMBEDDINGS, KEYS


def test_the_same_vectors_are_kept(tmp_path: Path) -> None:
    where = written(tmp_path)
    times = [file.stat().st_mtime_ns for file in sorted(tmp_path.iterdir())]
    written(tmp_path)
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.iterdir())] == times
    assert np.array_equal(FeatureSet.open(where).split("base").vectors(), VECTORS)


def test_other_vectors_of_the_same_rows_are_refused(tmp_path: Path) -> None:
    where = written(tmp_path)
    for name, vectors in (("feature", VECTORS + 1), ("cls", VECTORS)):
        message = rf"base-00000-of-00003\.parquet: .*other vectors '{name}'.*another directory"
        with pytest.raises(ShardError, match=message):
            write_features(where, ROWS, {name: vectors}, META, 3)
    assert np.array_equal(FeatureSet.open(where).split("base").vectors(), VECTORS)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"x": b"{}"}, "a Parquet file, but not of features; move it away"),
        ({METADATA_KEY: b'{"format": 9}'}, "format version 9, this program reads 1"),
    ],
)
def test_files_of_others_are_not_overwritten(
    tmp_path: Path, metadata: dict[str | bytes, bytes], message: str
) -> None:
    file = tmp_path / "base.parquet"
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(metadata), file)
    before = file.read_bytes()
    with pytest.raises(ShardError, match=message):
        PartWriter(Location.parse(tmp_path), ROWS, META).missing()
    assert file.read_bytes() == before


def imported(folder: Path, content: object, target: Path) -> FeatureSet:
    folder.mkdir(exist_ok=True)
    (folder / "train_embeddings.pkl").write_bytes(pickle.dumps(content, 2))
    files = {"base": Location.parse(folder / "train_embeddings.pkl")}
    return import_leo(files, Location.parse(target))


def test_embeddings_of_another_kind_do_not_pass_for_those_that_are_there(tmp_path: Path) -> None:
    center = {"embeddings": EMBEDDINGS, "keys": KEYS}
    multiview = {"embeddings": EMBEDDINGS + 1, "keys": KEYS}
    first = imported(tmp_path / "center", center, tmp_path / "tables")
    with pytest.raises(ShardError, match=r"base\.parquet: .*other vectors 'feature'"):
        imported(tmp_path / "multiview", multiview, tmp_path / "tables")
    second = imported(tmp_path / "multiview", multiview, tmp_path / "others")
    assert second.meta.data == first.meta.data  # features of the same images
    assert second.digest != first.digest


def test_arrays_without_keys_are_other_images_unless_they_are_the_same(tmp_path: Path) -> None:
    array = EMBEDDINGS.reshape(2, 3, 5)
    first = imported(tmp_path / "a", array, tmp_path / "tables")
    again = imported(tmp_path / "a", array, tmp_path / "again")
    other = imported(tmp_path / "b", array + 1, tmp_path / "others")
    assert first.meta.data == again.meta.data != other.meta.data
    with pytest.raises(ShardError, match="other images"):
        imported(tmp_path / "b", array + 1, tmp_path / "tables")
