"""Shards written to a real S3 protocol server."""

from pathlib import Path
from typing import Any

import pytest

from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.config import build
from fsl.errors import ShardError

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


@pytest.fixture
def bucket(s3_root: str) -> Location:
    return Location.parse(s3_root) / "set"


def test_shards_on_s3_are_the_shards_on_disk(tmp_path: Path, bucket: Location) -> None:
    here, there = write(tmp_path / "here", max_samples=25), write(bucket, max_samples=25)
    assert there.digest == here.digest
    assert write(bucket, max_samples=25).digest == here.digest
    with pytest.raises(ShardError, match="finished shard set"):
        write(bucket)
    bucket.download(tmp_path / "back")
    assert files(tmp_path / "back") == files(tmp_path / "here")
