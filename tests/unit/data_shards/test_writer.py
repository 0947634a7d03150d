"""The writer: what others read, equal bytes, and nothing half done."""

import io
import json
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from data_shards.folder import FolderConfig
from data_shards.location import Location
from data_shards.manifest import INDEX_NAME, ShardSet
from data_shards.sources import Sample, build_source
from data_shards.synthetic import Strokes, StrokesConfig
from data_shards.tar_shard import TarShard
from data_shards.writer import DESCRIPTOR, write_shards
from fsl.config import build
from fsl.errors import ConfigError, ShardError

SMALL = build(
    StrokesConfig,
    {"images": 5, "characters": 4, "base_alphabets": 3, "val_alphabets": 1, "novel_alphabets": 1},
)


def write(root: Path | Location, config: Any = SMALL, **options: Any) -> ShardSet:
    place = root if isinstance(root, Location) else Location.parse(root)
    return write_shards(config, place, progress=False, **options)


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def image_folder(root: Path) -> FolderConfig:
    """Two splits of one class with two images each."""
    rng = np.random.default_rng(0)
    for name in ("train/ant/1", "train/ant/2", "test/bee/1", "test/bee/2"):
        path = root / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 12, 3), np.uint8)).save(path)
    return FolderConfig(root=root)


def test_shards_index_and_descriptor_lie_where_they_should(tmp_path: Path) -> None:
    shard_set = write(tmp_path, max_samples=25)
    assert list(files(tmp_path)) == [
        "base/base-000000.tar",
        "base/base-000001.tar",
        "base/base-000002.tar",
        "base/shardindex.json",
        INDEX_NAME,
        "novel/novel-000000.tar",
        "novel/shardindex.json",
        "val/shardindex.json",
        "val/val-000000.tar",
    ]
    assert shard_set.splits == ["base", "val", "novel"]
    assert shard_set.split("base").shard_sizes.tolist() == [25, 25, 10]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files open
def test_plain_webdataset_reads_the_samples_we_packed(tmp_path: Path) -> None:
    split = write(tmp_path, max_samples=25).split("base")
    source = build_source(SMALL)
    by_origin = {sample.origin: sample for sample in source.samples()}
    urls = str(tmp_path / "base" / "base-{000000..000002}.tar")
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in read] == split.keys.to_pylist()
    origins = split.extra("origin")
    for row, sample in enumerate(read):
        original = by_origin[origins[row]]
        assert sample["png"] == source.read(original)
        assert int(sample["cls"]) == split.labels[row]
        assert split.class_names[split.labels[row]] == original.class_name
        assert json.loads(sample["json"]) == original.extra
    assert sorted(origins) == sorted(o for o, s in by_origin.items() if s.split == "base")
    assert origins != sorted(origins)


def test_the_index_points_at_the_bytes_of_the_images(tmp_path: Path) -> None:
    split = write(tmp_path, max_samples=25).split("base")
    rows = []
    for number, file in enumerate(split.shard_files):
        with tarfile.open(str(file)) as archive:
            for member in archive:
                if member.name.endswith(".png"):
                    content = archive.extractfile(member)
                    assert content is not None
                    crc = zlib.crc32(content.read())
                    rows.append((member.name[:-4], number, member.offset_data, member.size, crc))
    columns = (split.keys.to_pylist(), split.shards, split.offsets, split.sizes, split.crc32)
    assert rows == list(zip(*(list(column) for column in columns), strict=True))
    assert set(map(tuple, split.image_sizes.tolist())) == {(28, 28)}


def test_members_carry_no_time_owner_or_extended_header(tmp_path: Path) -> None:
    write(tmp_path)
    with tarfile.open(tmp_path / "val" / "val-000000.tar") as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
            assert (member.uname, member.gname, member.pax_headers) == ("", "", {})
            assert member.offset_data - member.offset == 512


def test_equal_settings_give_equal_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert one.digest == two.digest
    other = write(tmp_path / "other", seed=1)
    assert other.digest != one.digest
    assert sorted(other.split("base").extra("origin")) == sorted(one.split("base").extra("origin"))


def test_shards_stay_below_the_size_asked_for(tmp_path: Path) -> None:
    split = write(tmp_path, shard_mb=0.04).split("base")
    sizes = [file.bytes for file in split.files]
    assert sizes == [file.size() for file in split.shard_files]
    assert len(sizes) > 3
    assert max(sizes) <= 40_000
    assert min(sizes[:-1]) > 25_000


def test_descriptors_tell_wids_what_there_is(tmp_path: Path) -> None:
    shard_set = write(tmp_path, max_samples=25)
    described = json.loads((tmp_path / "base" / DESCRIPTOR).read_text())
    assert (described["__kind__"], described["wids_version"]) == ("wids-shard-index-v1", 1)
    listed = described["shardlist"]
    assert [entry["url"] for entry in listed] == [f"base-00000{i}.tar" for i in range(3)]
    expected = [(file.samples, file.bytes) for file in shard_set.split("base").files]
    assert [(entry["nsamples"], entry["filesize"]) for entry in listed] == expected
    assert len(listed[0]["md5sum"]) == 32


def test_files_pass_through_unchanged_with_their_true_extension(tmp_path: Path) -> None:
    config = image_folder(tmp_path / "images")
    sink = io.BytesIO()
    Image.new("L", (5, 6)).save(sink, "PNG")
    (tmp_path / "images" / "train" / "ant" / "2.jpg").write_bytes(sink.getvalue())
    split = write(tmp_path / "out", config).split("base")
    row = split.extra("origin").index("train/ant/2.jpg")
    assert split.extensions[row] == "png"
    assert split.image_sizes[row].tolist() == [5, 6]
    assert split.crc32[row] == zlib.crc32(sink.getvalue())


def test_writing_again_returns_the_finished_set_untouched(tmp_path: Path) -> None:
    first = write(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write(tmp_path).digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_the_place_of_the_images_does_not_count(tmp_path: Path) -> None:
    config = image_folder(tmp_path / "images")
    first = write(tmp_path / "out", config)
    (tmp_path / "images").rename(tmp_path / "moved")
    assert write(tmp_path / "out", FolderConfig(root=tmp_path / "moved")).digest == first.digest


def test_another_set_is_not_overwritten_unasked(tmp_path: Path) -> None:
    write(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ShardError, match="finished shard set made of another source"):
        write(tmp_path, seed=1)
    assert files(tmp_path) == before
    write(tmp_path, seed=1, overwrite=True)
    write(tmp_path / "fresh", seed=1)
    fresh = files(tmp_path / "fresh")
    assert {name: content for name, content in files(tmp_path).items() if name in fresh} == fresh


def test_files_of_others_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "thesis.tex").write_text("dear")
    with pytest.raises(ShardError, match=r"thesis\.tex: was not made by the writer"):
        write(tmp_path)
    assert (tmp_path / "base" / "thesis.tex").read_text() == "dear"


class Stumbling(Strokes):
    """Fails at the last image of the base classes."""

    def read(self, sample: Sample) -> bytes:
        if sample.origin == "base02/character03/04":
            raise KeyboardInterrupt
        return super().read(sample)


def test_an_interrupted_write_leaves_no_index_and_the_next_one_is_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("data_shards.writer.build_source", Stumbling)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "a", max_samples=7)
    left = files(tmp_path / "a")
    assert INDEX_NAME not in left
    assert not [name for name in left if name.endswith(".part")]
    with pytest.raises(ShardError, match="no shard set"):
        ShardSet.open(Location.parse(tmp_path / "a"))
    (tmp_path / "a" / "base" / ".base-000009.tar.part").write_bytes(b"left by kill -9")
    write(tmp_path / "a", max_samples=25)
    write(tmp_path / "b", max_samples=25)
    assert files(tmp_path / "a") == files(tmp_path / "b")


FULL_DISK = """
import resource, sys
from data_shards.location import Location
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.errors import ShardError
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    write_shards(StrokesConfig(characters=4), Location.parse(sys.argv[1]), progress=False)
except ShardError as error:
    print(error)
    sys.exit(3)
"""


def test_a_full_disk_is_one_clear_error_without_an_index(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: write() fails the same way."""
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "base-000000.tar: cannot be written: File too large; no index" in done.stdout
    assert done.stderr == ""
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable image"),
        (b"GIF89a" + bytes(20), "not a readable image"),
        (None, "not a readable image.*truncated"),
    ],
)
def test_a_corrupt_image_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    config = image_folder(tmp_path / "images")
    victim = tmp_path / "images" / "train" / "ant" / "2.jpg"
    victim.write_bytes(victim.read_bytes()[:-60] if content is None else content)
    with pytest.raises(ShardError, match=rf"train/ant/2\.jpg: {message}"):
        write(tmp_path / "out", config)
    assert INDEX_NAME not in files(tmp_path / "out")


def test_an_image_in_two_splits_is_refused_or_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = image_folder(tmp_path / "images")
    same = (tmp_path / "images" / "train" / "ant" / "1.jpg").read_bytes()
    (tmp_path / "images" / "test" / "bee" / "2.jpg").write_bytes(same)
    with pytest.raises(ShardError, match=r"train/ant/1.jpg \(base\) and test/bee/2.jpg \(novel\)"):
        write(tmp_path / "out", config)
    warned = config.model_copy(update={"shared_images": "warn"})
    assert len(write(tmp_path / "out", warned)) == 4
    assert "the same image is in two splits" in caplog.text


class Overlapping(Strokes):
    """A careless plug-in: a class in two splits."""

    def samples(self) -> list[Sample]:
        return [sample._replace(class_name="one") for sample in super().samples()]


def test_a_class_in_two_splits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_shards.writer.build_source", Overlapping)
    with pytest.raises(ConfigError, match="class 'one' is in 'base' and in 'val'"):
        write(tmp_path)


@pytest.mark.parametrize("key", ["a.b", "a/b", "_a", ""])
def test_keys_that_break_readers_are_refused(tmp_path: Path, key: str) -> None:
    shard = TarShard(Location.parse(tmp_path) / "base-000000.tar", "base", tmp_path)
    with pytest.raises(ShardError, match="dots, slashes"):
        shard.add(key, {"png": b"x"}, "png")
    shard.abandon()


@pytest.mark.parametrize("options", [{"shard_mb": 0}, {"max_samples": 0}])
def test_sizes_must_be_positive(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        write(tmp_path, **options)
