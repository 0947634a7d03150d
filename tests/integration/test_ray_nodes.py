"""A run's directory must be seen by every node that may get a worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_shards.location import Location
from fsl.errors import StageError
from pipelines.quiet import prepare_environment
from pipelines.ray_nodes import refuse_unseen

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.filterwarnings("default"),  # Ray itself uses what Ray has deprecated
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two nodes, of which one has no room for a worker of two processors."""
    prepare_environment()
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes.add_node(num_cpus=1)
    try:
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()  # type: ignore[no-untyped-call]


def test_a_directory_that_a_node_does_not_see_is_refused(tmp_path: Path) -> None:
    refuse_unseen(Location.parse(tmp_path), {"CPU": 1})
    missing = Location.parse(tmp_path / "pretrain-0123")
    refuse_unseen(missing, {"CPU": 2})  # the other node gets no such worker
    with pytest.raises(StageError, match=r"pretrain-0123: not on the disk of the cluster's node"):
        refuse_unseen(missing, {"CPU": 1})
