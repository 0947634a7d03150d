"""One torch thread, fixed seeds, and the places of data that tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from pipelines.quiet import prepare_environment

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for processes that tests start
    os.environ.setdefault(_name, "1")
prepare_environment()  # before any test imports Ray, and the same for all


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


def _folder(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{path} is not here; set {variable} to its place")
    return path


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data sets (`FEWSHOT_DATA`, default ../shared/data); skips where there are none."""
    return _folder("FEWSHOT_DATA", ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Reference archives (`FEWSHOT_GOLDEN`, default ../shared/golden); skips without them."""
    return _folder("FEWSHOT_GOLDEN", ROOT.parent / "shared" / "golden")


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Six characters of each of four generated alphabets, eight images each; read only.

    Splits: base 12 classes, val 6, novel 6; several shards each.
    """
    source = StrokesConfig(
        size=16, images=8, characters=6, base_alphabets=2, val_alphabets=1, novel_alphabets=1
    )
    root = Location.parse(tmp_path_factory.mktemp("tiny") / "shards")
    return write_shards(source, root, max_samples=25, progress=False)


@pytest.fixture(scope="module")
def s3_root() -> Iterator[str]:
    """The address of an empty bucket on a real S3 protocol server on this machine."""
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
        client.create_bucket(Bucket="bucket")
        client.close()
        yield f"s3://bucket/runs?endpoint_override={endpoint}&region=us-east-1"
        server.stop()
