"""Episode banks: pure functions of (seed, episode), sealed, and fair to every class and image."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_shards.class_rows import ClassRows
from data_shards.episodes import EpisodeBank
from data_shards.location import Location
from data_shards.manifest import ShardSet, Split
from fsl.errors import ConfigError, ShardError


class VirtualSplit:
    """Labels without images."""

    def __init__(self, counts: list[int]) -> None:
        self.name = "novel"
        self.shard_set = cast(Any, type("Set", (), {"digest": "d" * 64, "root": "here"}))
        self.class_names = [f"class {i}" for i in range(len(counts))]
        labels = np.repeat(np.arange(len(counts)), counts)
        self.labels = np.random.default_rng(0).permutation(labels).astype(np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def class_rows(self) -> ClassRows:
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.labels))])
        return ClassRows(np.argsort(self.labels, kind="stable"), starts)


def virtual(*counts: int) -> Split:
    return cast(Split, VirtualSplit(list(counts)))


def test_ways_are_different_classes_and_images_different_images_of_them() -> None:
    split = virtual(*range(20, 32))
    bank = EpisodeBank.make(split, 5, 3, 4, tasks=200, seed=1)
    assert bank.query is not None
    assert bank.support.shape == (200, 5, 3)
    assert bank.query.shape == (200, 5, 4)
    rows = np.concatenate([bank.support, bank.query], -1)
    assert (split.labels[rows] == bank.classes[..., None]).all()
    assert (np.diff(np.sort(bank.classes, -1)) > 0).all()
    assert (np.diff(np.sort(rows, -1)) > 0).all()
    assert {a.dtype for a in (bank.classes, bank.support, bank.query)} == {np.dtype(np.int32)}


def test_an_episode_does_not_depend_on_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = virtual(*[20] * 9)
    many = EpisodeBank.make(split, 4, 1, 5, tasks=300, seed=7)
    monkeypatch.setattr("data_shards.episode_draws.CHUNK", 1000)
    few = EpisodeBank.make(split, 4, 1, 5, tasks=17, seed=7)
    assert few.query is not None
    assert many.query is not None
    assert np.array_equal(many.classes[:17], few.classes)
    assert np.array_equal(many.support[:17], few.support)
    assert np.array_equal(many.query[:17], few.query)


def test_seeds_and_episodes_differ() -> None:
    split = virtual(*[20] * 30)
    first, second = (EpisodeBank.make(split, 5, 1, 5, tasks=50, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.classes, second.classes)
    assert len(np.unique(first.support.reshape(50, -1), axis=0)) == 50
    assert first.digest == EpisodeBank.make(split, 5, 1, 5, tasks=50, seed=0).digest
    assert first.digest != second.digest


def test_classes_and_images_are_drawn_evenly_also_from_unequal_classes() -> None:
    split = virtual(10, 20, 15, 12, 18, 10)
    bank = EpisodeBank.make(split, 3, 2, 2, tasks=12_000, seed=3)
    per_class = np.bincount(bank.classes.ravel(), minlength=6)
    assert ((per_class - 6000) ** 2 / 6000).sum() < 20  # 5 degrees of freedom
    first = np.bincount(bank.classes[:, 0], minlength=6)
    assert ((first - 2000) ** 2 / 2000).sum() < 20
    drawn = np.bincount(bank.support[..., 0].ravel(), minlength=len(split))
    expected = per_class[split.labels] / np.bincount(split.labels)[split.labels]
    assert ((drawn - expected) ** 2 / expected).sum() < 140  # 79 degrees of freedom


def test_classes_of_an_episode_are_drawn_independently_of_its_images() -> None:
    split = virtual(*[20] * 10)
    one, two = (EpisodeBank.make(split, ways, 1, 5, tasks=40, seed=2) for ways in (3, 5))
    assert np.array_equal(one.classes, two.classes[:, :3])
    assert np.array_equal(one.support, two.support[:, :3])


def test_all_remaining_images_need_no_list() -> None:
    bank = EpisodeBank.make(virtual(9, 6, 7), 2, 5, None, tasks=10, seed=0)
    assert bank.query is None
    assert bank.queries is None


def test_ten_thousand_episodes_of_the_paper_take_seconds() -> None:
    split = virtual(*[600] * 20)
    start = time.process_time()
    bank = EpisodeBank.make(split, 5, 5, 15, tasks=2000, seed=0)
    assert time.process_time() - start < 8
    assert len(bank) == 2000


@pytest.mark.parametrize("queries", [15, None])
def test_a_saved_bank_comes_back_equal(tmp_path: Path, queries: int | None) -> None:
    bank = EpisodeBank.make(virtual(*[20] * 6), 5, 2, queries, tasks=30, seed=4)
    where = bank.save(Location.parse(tmp_path / "banks"))
    assert where.name == f"bank-{bank.digest[:12]}.parquet"
    assert bank.save(Location.parse(tmp_path / "banks")) == where
    loaded = EpisodeBank.load(where)
    assert np.array_equal(loaded.classes, bank.classes)
    assert np.array_equal(loaded.support, bank.support)
    assert (loaded.query is None) == (queries is None)
    assert (loaded.seed, loaded.shots, loaded.queries) == (4, 2, queries)
    assert loaded.digest == bank.digest


def test_a_changed_bank_is_refused(tmp_path: Path) -> None:
    bank = EpisodeBank.make(virtual(*[20] * 6), 5, 1, 15, tasks=30, seed=4)
    where = bank.save(Location.parse(tmp_path))
    assert where.local is not None
    table = pq.read_table(where.local)
    swapped = bank.support[::-1].reshape(30, -1)
    column = pa.FixedSizeListArray.from_arrays(pa.array(swapped.ravel()), 5)
    changed = table.set_column(1, "support", column)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), where.local)
    with pytest.raises(ShardError, match="its episodes were changed; make it again"):
        EpisodeBank.load(where)


@pytest.mark.parametrize("content", [b"", b"no parquet at all"])
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bank.parquet").write_bytes(content)
    with pytest.raises(ShardError, match=r"bank.parquet: not a readable bank"):
        EpisodeBank.load(Location.parse(tmp_path / "bank.parquet"))


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "bank.parquet")
    with pytest.raises(ShardError, match="not an episode bank of format 1"):
        EpisodeBank.load(Location.parse(tmp_path / "bank.parquet"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((4, 1, 1), "ways: 4, but of its 3 classes 3 have the 2 images"),
        ((3, 5, 2), "3 classes 2 have the 7 images for 5 shots and 2 queries"),
        ((3, 6, None), "2 have the 7 images for 6 shots and 1 query at least"),
        ((0, 1, 1), "ways: 0; use 1 or more"),
        ((2, 0, 1), "shots: 0; use 1 or more"),
        ((2, 1, 0), "queries: 0; use 1 or more"),
    ],
)
def test_impossible_episodes_are_refused(
    settings: tuple[int, int, int | None], message: str
) -> None:
    ways, shots, queries = settings
    with pytest.raises(ConfigError, match=message):
        EpisodeBank.make(virtual(9, 6, 7), ways, shots, queries, tasks=5, seed=0)


def test_a_bank_fits_only_its_own_data(shard_set: ShardSet) -> None:
    bank = EpisodeBank.make(shard_set.split("novel"), 2, 1, 2, tasks=5, seed=0)
    bank.refuse_other(shard_set.split("novel"))
    with pytest.raises(ShardError, match="the episode bank is of split 'novel'"):
        bank.refuse_other(shard_set.split("base"))
    with pytest.raises(ShardError, match="make a bank for it"):
        replace(bank, data_digest="0" * 64).refuse_other(shard_set.split("novel"))


def test_classes_with_too_few_images_take_no_part() -> None:
    bank = EpisodeBank.make(virtual(9, 6, 7), ways=2, shots=5, queries=2, tasks=50, seed=0)
    assert set(np.unique(bank.classes)) == {0, 2}
