"""Shards written to a real S3 protocol server."""

from collections.abc import Iterator
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
def bucket() -> Iterator[Location]:
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="shards")
        client.close()
        yield Location.parse(f"s3://shards/set?endpoint_override={endpoint}&region=us-east-1")
        server.stop()


def test_shards_on_s3_are_the_shards_on_disk(tmp_path: Path, bucket: Location) -> None:
    here, there = write(tmp_path / "here", max_samples=25), write(bucket, max_samples=25)
    assert there.digest == here.digest
    assert write(bucket, max_samples=25).digest == here.digest
    with pytest.raises(ShardError, match="finished shard set"):
        write(bucket)
    bucket.download(tmp_path / "back")
    assert files(tmp_path / "back") == files(tmp_path / "here")
