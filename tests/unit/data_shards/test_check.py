"""Every planted damage is found, all of them at once, and a sound set has no fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from data_shards.check import CheckReport, check_shards
from data_shards.foreign import index_foreign
from data_shards.location import Location
from data_shards.manifest import INDEX_NAME, METADATA_KEY, ShardSet
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.errors import ShardError
from tests.unit.data_shards.hand_made_shards import (
    Samples,
    hand_made_samples,
    index_by_hand,
    png,
    write_tar,
)

FIRST, SECOND, NOVEL = "base/base-000000.tar", "base/base-000001.tar", "novel/novel-000000.tar"


def local(shard_set: ShardSet) -> Path:
    assert shard_set.root.local is not None
    return shard_set.root.local


def check(shard_set: ShardSet, deep: bool = True) -> CheckReport:
    return check_shards(shard_set.root, deep=deep, progress=False)


def packed(root: Path, change: Callable[[Samples], object]) -> ShardSet:
    """Return a set whose samples were changed before they were packed and indexed."""
    samples = hand_made_samples()
    change(samples)
    for name, fields_of in samples.items():
        write_tar(root / name, fields_of)
    return index_by_hand(root, samples)


@pytest.mark.parametrize("deep", [True, False])
def test_a_sound_set_has_no_fault(shard_set: ShardSet, deep: bool) -> None:
    report = check(shard_set, deep)
    assert report.faults == []
    assert report.ok
    assert (report.shards, report.samples) == (3, 23)
    assert "3 shards, 23 samples" in str(report)
    assert "no fault" in str(report)


def test_a_sound_remote_set_has_no_fault(shard_set: ShardSet) -> None:
    elsewhere = fs.SubTreeFileSystem(str(local(shard_set).parent), fs.LocalFileSystem())
    root = Location(elsewhere, local(shard_set).name, "mock")
    assert check_shards(root, progress=False).faults == []


def test_sound_foreign_tars_have_no_fault(tmp_path: Path) -> None:
    for name, fields_of in hand_made_samples().items():
        write_tar(tmp_path / name, fields_of)
    report = check(index_foreign(Location.parse(tmp_path)))
    # The two splits use the same class numbers, which is all that their tars say.
    assert {fault.sentence[:9] for fault in report.faults} == {"class '0'", "class '1'"}


def test_missing_empty_truncated_and_unknown_shards_are_all_found(shard_set: ShardSet) -> None:
    root = local(shard_set)
    shutil.copy(root / FIRST, root / "base/base-000007.tar")
    (root / FIRST).unlink()
    (root / NOVEL).write_bytes(b"")
    (root / SECOND).write_bytes((root / SECOND).read_bytes()[:6000])
    found = {fault.shard: str(fault) for fault in reversed(check(shard_set).faults)}
    assert "is missing; the index says it holds 8 samples" in found[FIRST]
    assert "is empty; the index says 8 samples" in found[NOVEL]
    assert "truncated: has 6000 bytes, the index says" in found[SECOND]
    assert "is not in the index" in found["base/base-000007.tar"]


def test_a_truncated_shard_names_the_first_lost_sample(shard_set: ShardSet) -> None:
    split, path = shard_set.split("base"), local(shard_set) / SECOND
    offset = int(split.offsets[11])
    path.write_bytes(path.read_bytes()[: offset + 10])
    (lost,) = [fault for fault in check(shard_set).faults if fault.key]
    assert (lost.key, lost.offset) == (split.key(11), offset)
    assert "lies beyond the end, as do 3 more samples" in lost.sentence


@pytest.mark.parametrize("deep", [True, False])
def test_changed_bytes_name_key_and_offset(shard_set: ShardSet, deep: bool) -> None:
    split, path = shard_set.split("base"), local(shard_set) / FIRST
    content = bytearray(path.read_bytes())
    for row in (2, 5):
        content[split.offsets[row] + 60] ^= 0xFF
    path.write_bytes(content)
    faults = check(shard_set, deep).faults
    assert [(f.shard, f.key, f.offset) for f in faults] == [
        (FIRST, split.key(row), int(split.offsets[row])) for row in (2, 5)
    ]
    assert f"the index says {split.crc32[2]:08x}" in faults[0].sentence


@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_a_stretch_that_tar_readers_pass_over_is_found(shard_set: ShardSet, fill: str) -> None:
    split, path = shard_set.split("base"), local(shard_set) / FIRST
    content = bytearray(path.read_bytes())
    start, stop = int(split.offsets[2]) - 512, int(split.offsets[5]) - 512
    damage = bytes(stop - start) if fill == "zeros" else b"\x5a" * (stop - start)
    content[start:stop] = damage
    path.write_bytes(content)
    report = check(shard_set)
    assert [f.key for f in report.faults if f.key] == ["000002", "000003", "000004"]
    what = "a stretch of the shard was zeroed" if fill == "zeros" else "not a tar header"
    assert what in str(report)
    if fill == "zeros":
        assert "(all zero)" in str(report)


def test_damage_outside_of_images_is_found(shard_set: ShardSet) -> None:
    path = local(shard_set) / FIRST
    content = bytearray(path.read_bytes())
    content[-1] = 1
    path.write_bytes(content)
    assert len(check(shard_set).faults) == 1


def test_an_undecodable_image_is_found_only_by_a_deep_check(tmp_path: Path) -> None:
    image = png(4)
    damaged = image[:60] + bytes(40) + image[100:]
    shard_set = packed(tmp_path, lambda s: s[FIRST]["000004"].update(png=damaged))
    assert check(shard_set, deep=False).ok
    (fault,) = check(shard_set).faults
    assert (fault.shard, fault.key) == (FIRST, "000004")
    assert "not a readable image" in fault.sentence


def test_an_image_of_another_size_is_found(tmp_path: Path) -> None:
    shard_set = packed(tmp_path, lambda s: s[FIRST]["000004"].update(png=png(4, side=20)))
    (fault,) = check(shard_set).faults
    assert fault.sentence == "22 x 20 pixels, the index says 14 x 12"


def test_a_label_that_disagrees_with_the_index_is_found(tmp_path: Path) -> None:
    samples = hand_made_samples()
    changed = {name: dict(fields_of) for name, fields_of in samples.items()}
    changed[SECOND]["000010"] = {**samples[SECOND]["000010"], "cls": b"2"}
    for name, fields_of in changed.items():
        write_tar(tmp_path / name, fields_of)
    (fault,) = check(index_by_hand(tmp_path, samples)).faults
    assert (fault.shard, fault.key) == (SECOND, "000010")
    assert fault.sentence == "its label member says '2', the index '1'"


def test_an_image_in_two_splits_is_found(tmp_path: Path) -> None:
    shard_set = packed(tmp_path, lambda s: s[NOVEL]["000020"].update(png=png(3)))
    (fault,) = check(shard_set, deep=False).faults
    assert (fault.shard, fault.key) == (NOVEL, "000020")
    assert "the same image is in split 'base' as '000003'" in fault.sentence


def test_a_shard_with_too_many_samples_is_found(shard_set: ShardSet) -> None:
    samples = hand_made_samples()
    samples[NOVEL]["000099"] = {"png": png(99), "cls": b"0"}
    write_tar(local(shard_set) / NOVEL, samples[NOVEL])
    assert "holds 9 samples, the index says 8" in str(check(shard_set))


def rewrite_index(shard_set: ShardSet, change: Callable[[dict[str, Any]], object]) -> None:
    path = local(shard_set) / INDEX_NAME
    table = pq.read_table(path)
    metadata = json.loads(table.schema.metadata[METADATA_KEY])
    change(metadata)
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)}), path)


def test_a_class_in_two_splits_is_found(shard_set: ShardSet) -> None:
    def change(metadata: dict[str, Any]) -> None:
        metadata["classes"] = {"base": ["ant", "bee", "cat"], "novel": ["cat", "elk"]}

    rewrite_index(shard_set, change)
    report = str(check(shard_set))
    assert "index.parquet: class 'cat' is in split 'base' and in 'novel'" in report
    assert "its rows were changed after it was written" in report


def test_held_out_images_of_the_base_classes_are_no_fault(tmp_path: Path) -> None:
    config = StrokesConfig(
        base_alphabets=1, val_alphabets=0, novel_alphabets=1, characters=3, images=3,
        held_out_images=2,
    )  # fmt: skip
    written = write_shards(config, Location.parse(tmp_path), progress=False)
    assert "held_out" in written.splits
    assert check(written).faults == []
    rewrite_index(written, lambda metadata: metadata["classes"]["held_out"].__setitem__(0, "elk"))
    report = str(check(written))
    assert "class 'elk' is in split 'held_out' and not in 'base'" in report
    assert "its rows were changed after it was written; write the shards again" in report


def test_a_key_that_occurs_twice_is_found(shard_set: ShardSet) -> None:
    path = local(shard_set) / INDEX_NAME
    table = pq.read_table(path)
    keys = table["key"].to_pylist()
    keys[5] = keys[2]
    changed = table.set_column(0, table.schema.field("key"), [keys])
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    faults = check(shard_set, deep=False).faults
    assert any(f.key == keys[2] and "twice in split 'base'" in f.sentence for f in faults)


def test_damaged_pages_of_the_index_are_found(shard_set: ShardSet) -> None:
    path = local(shard_set) / INDEX_NAME
    content = bytearray(path.read_bytes())
    content[100:110] = bytes(10)
    path.write_bytes(content)
    faults = check(shard_set).faults
    assert [fault.shard for fault in faults] == [INDEX_NAME]
    assert "CRC checksum verification failed" in faults[0].sentence


def test_without_an_index_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no index.parquet"):
        check_shards(Location.parse(tmp_path))


def test_only_the_first_faults_are_printed(shard_set: ShardSet) -> None:
    report = check(shard_set)
    (local(shard_set) / FIRST).write_bytes(b"\x01" * 10_240)
    (fault, *_) = check(shard_set).faults
    many = CheckReport(report.root, 1, 1, True, [fault] * 70)
    assert str(many).endswith("... and 20 more")
