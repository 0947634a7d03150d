"""Feature extraction by several processes of a Ray cluster.

Every process loads the model once; parts go to whichever is free. One that dies is started again
and its part with it: a part is a file that appears whole or not at all.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from fsl.errors import FewShotError, StageError
from pipelines.extraction import Extraction, ExtractionCluster, Extractor, Part
from pipelines.ray_trainer import connect

RESTARTS = 3
"""Of one process, after which the extraction ends; run again, it continues."""
logger = logging.getLogger(__name__)


def extract_on_ray(
    job: Extraction,
    parts: Sequence[Part],
    cluster: ExtractionCluster,
    on_images: Callable[[int], object],
) -> None:
    """Compute and write parts.

    Args:
        job: what is extracted.
        parts: the parts to write, one or more.
        cluster: the processes.
        on_images: called with the number of images after each part.

    Raises:
        FewShotError: no process fits the cluster, one died again and again, or what is wrong with
            the model or the data.
    """
    connect()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpu = resources.get("GPU", 0) > 0 if cluster.gpu == "auto" else cluster.gpu
    count = min(len(parts), _processes(cluster, gpu, resources))
    remote: Any = ray.remote(
        num_cpus=cluster.cpus_per_worker,
        num_gpus=int(gpu),
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
    )(Extractor)
    threads = None if gpu else cluster.cpus_per_worker
    workers = [remote.remote(job, "cuda" if gpu else "cpu", threads) for _ in range(count)]
    try:
        _hand_out(parts, workers, on_images)
    except RayTaskError as error:
        if isinstance(error.cause, FewShotError):
            raise error.cause from None
        raise
    except RayActorError as error:
        reason = " ".join(str(error).split())
        raise StageError(
            f"a process died {RESTARTS + 1} times (killed, or out of memory?); lower batch_size or "
            f"cluster.workers and run the same command again, finished parts are kept: {reason}"
        ) from error
    finally:
        for worker in workers:
            ray.kill(worker)


def _hand_out(
    parts: Sequence[Part], workers: Sequence[Any], on_images: Callable[[int], object]
) -> None:
    """Give each worker a part when it is free; a worker that never starts holds up nothing."""
    waiting, unwritten = deque(parts), len(parts)
    busy = {worker.prepare.remote(): worker for worker in workers}
    while unwritten:
        (done,), _ = ray.wait(list(busy), num_returns=1)
        worker = busy.pop(done)
        rows = ray.get(done)
        if rows:
            unwritten -= 1
            on_images(rows)
        if waiting:
            busy[worker.write.remote(waiting.popleft())] = worker


def _processes(cluster: ExtractionCluster, gpu: bool, resources: dict[str, float]) -> int:
    """Return how many processes to ask for; raises StageError when none can ever run."""
    need = {"CPU": cluster.cpus_per_worker} | ({"GPU": 1} if gpu else {})
    room = int(min(resources.get(name, 0) // amount for name, amount in need.items()))
    wanted = ", ".join(f"{amount} {name}" for name, amount in need.items())
    there = ", ".join(f"{resources.get(name, 0):g} {name}" for name in need)
    message = f"one process needs {wanted}, but the Ray cluster has {there}"
    if os.environ.get("RAY_ADDRESS"):  # its autoscaler may add nodes when asked
        if not room:
            logger.warning("cluster: %s at the moment; waiting for a node to come", message)
        return cluster.workers
    if not room:
        raise StageError(f"cluster: {message}; lower cluster.cpus_per_worker, or set cluster.gpu")
    return min(cluster.workers, room)
