"""Reading by row: right bytes, in any process, and damage that is never passed on."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from data_shards import local_files, remote_ranges
from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.reader import Reader
from fsl.errors import ShardError

Samples = dict[str, dict[str, dict[str, bytes]]]


def images_of(samples: Samples, split: str) -> list[bytes]:
    return [
        fields["png"]
        for name, fields_of in samples.items()
        if name.startswith(split)
        for fields in fields_of.values()
    ]


def remote(shard_set: ShardSet) -> ShardSet:
    """Return the set on a file system that is not the local disk to the reader."""
    root = shard_set.root.local
    assert root is not None
    elsewhere = fs.SubTreeFileSystem(str(root.parent), fs.LocalFileSystem())
    return ShardSet.open(Location(elsewhere, root.name, "mock"))


def shard(shard_set: ShardSet, number: int) -> Path:
    local = shard_set.root.local
    assert local is not None
    return local / shard_set.files[number].name


@pytest.mark.parametrize("where", ["local", "remote", "without memory maps"])
def test_rows_come_back_in_the_order_asked_for(
    shard_set: ShardSet, samples: Samples, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "remote":
        shard_set = remote(shard_set)
    if where == "without memory maps":

        def refuse(*_: object, **__: object) -> None:
            raise OSError("no maps here")

        monkeypatch.setattr("mmap.mmap", refuse)
    reader = Reader(shard_set.split("base"))
    expected = images_of(samples, "base")
    for rows in ([14, 0, 7, 8, 7], list(range(15)), [], [3]):
        assert reader.read(rows) == [expected[row] for row in rows]
    assert Reader(shard_set.split("novel")).read([0]) == images_of(samples, "novel")[:1]


def test_only_a_few_files_are_open_at_a_time(
    shard_set: ShardSet, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_files, "MOST_OPEN", 1)
    rows = [0, 14, 1, 13]
    expected = images_of(samples, "base")
    assert Reader(shard_set.split("base")).read(rows) == [expected[row] for row in rows]


def read_first(reader: Reader) -> bytes:
    return reader.read([0])[0]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_used_reader_works_in_another_process(
    shard_set: ShardSet, samples: Samples, method: str
) -> None:
    reader = Reader(shard_set.split("base"))
    first = read_first(reader)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(read_first, (reader,)) == first == images_of(samples, "base")[0]


def test_a_pickled_reader_is_small_and_notices_a_replaced_set(shard_set: ShardSet) -> None:
    reader = Reader(shard_set.split("base"))
    reader.read([0])
    pickled = pickle.dumps(reader)
    assert len(pickled) < 1000
    shard_set.digest = "other"
    with pytest.raises(ShardError, match="replaced while it was in use"):
        pickle.loads(pickle.dumps(reader))
    assert pickle.loads(pickled).read([1]) == reader.read([1])


def test_neighbours_are_fetched_in_one_request_and_then_kept(shard_set: ShardSet) -> None:
    reader = Reader(remote(shard_set).split("base"))
    reader.read(range(15))
    source = reader._open()
    assert isinstance(source, remote_ranges.RemoteRanges)
    assert source.requests == 2  # one for each shard
    reader.read(range(15))
    assert source.requests == 2


def test_the_cache_stays_within_its_limit(shard_set: ShardSet, samples: Samples) -> None:
    reader = Reader(remote(shard_set).split("base"), cache_bytes=2000)
    reader.read(range(15))
    source = reader._open()
    assert isinstance(source, remote_ranges.RemoteRanges)
    assert 0 < source._cached == sum(map(len, source._cache.values())) <= 2000
    assert reader.read(range(15)) == images_of(samples, "base")


def test_requests_are_merged_only_when_near_and_small() -> None:
    far = remote_ranges.MERGE_GAP + 1
    big = remote_ranges.MERGE_MOST
    merged = remote_ranges.merge(
        [(0, 0, 10), (0, 12, 10), (0, 22 + far, 5), (1, 0, 5), (1, 5, big)]
    )
    assert [(r.file, r.start, r.stop) for r in merged] == [
        (0, 0, 22), (0, 22 + far, 27 + far), (1, 0, 5), (1, 5, 5 + big),
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["local", "remote"])
class TestDamage:
    def opened(self, shard_set: ShardSet, where: str) -> ShardSet:
        return remote(shard_set) if where == "remote" else shard_set

    def test_changed_bytes_name_shard_key_offset_and_checksum(
        self, shard_set: ShardSet, where: str
    ) -> None:
        split = shard_set.split("base")
        content = bytearray(shard(shard_set, 0).read_bytes())
        content[split.offsets[3] + 20] ^= 1
        shard(shard_set, 0).write_bytes(content)
        reader = Reader(self.opened(shard_set, where).split("base"))
        message = (
            rf"base/base-000000.tar: sample '000003' at byte {split.offsets[3]}: crc32 [0-9a-f]+, "
            rf"the index says {split.crc32[3]:08x}; run `fewshot shards check"
        )
        with pytest.raises(ShardError, match=message):
            reader.read([2, 3])
        assert len(reader.read([2, 4])) == 2
        assert Reader(split, verify=False).read([3])[0] != b""

    def test_a_truncated_shard_is_refused(self, shard_set: ShardSet, where: str) -> None:
        path = shard(shard_set, 1)
        path.write_bytes(path.read_bytes()[:3000])
        reader = Reader(self.opened(shard_set, where).split("base"))
        with pytest.raises(ShardError, match=r"has 3000 bytes, the index says \d+"):
            reader.read([0, 8])
        assert len(reader.read([0])) == 1

    def test_a_missing_shard_is_refused(self, shard_set: ShardSet, where: str) -> None:
        shard(shard_set, 1).unlink()
        reader = Reader(self.opened(shard_set, where).split("base"))
        with pytest.raises(ShardError, match=r"'000008' at byte .*000001.tar cannot be"):
            reader.read([8])

    def test_skipping_keeps_positions_and_counts(
        self,
        shard_set: ShardSet,
        samples: Samples,
        where: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        shard(shard_set, 1).write_bytes(b"")
        reader = Reader(self.opened(shard_set, where).split("base"), on_error="skip")
        with caplog.at_level(logging.WARNING):
            read = reader.read(range(7, 11))
        assert read == [images_of(samples, "base")[7], b"", b"", b""]
        assert reader.skipped == 3
        assert "skipped damaged sample 3" in caplog.text


def test_only_the_first_warnings_are_logged(
    shard_set: ShardSet, caplog: pytest.LogCaptureFixture
) -> None:
    shard(shard_set, 0).unlink()
    reader = Reader(shard_set.split("base"), on_error="skip")
    reader.read([0] * 30)
    assert reader.skipped == 30
    assert len(caplog.records) == 10
    assert "further ones are only counted" in caplog.text


def test_rows_beyond_the_split_are_refused(shard_set: ShardSet) -> None:
    with pytest.raises(IndexError, match=r"rows 15\.\.15 of 15"):
        Reader(shard_set.split("base")).read(np.array([15]))
