"""A Ray cluster on this machine for the tests of one file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.quiet import prepare_environment


@contextmanager
def local_cluster(cpus: int = 2) -> Iterator[None]:
    """Start a cluster with so many logical CPUs, and end it."""
    prepare_environment()
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100_000_000,
    )
    try:
        yield
    finally:
        ray.shutdown()
