"""Whether the nodes of a cluster see a run's directory: a local path may be on one disk alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_shards.location import Location
from fsl.errors import StageError


def unseen(out: Location, node: str) -> StageError:
    """Return what to say of a node that does not see the stage's directory."""
    return StageError(
        f"{out}: not on the disk of the cluster's node {node}; set run_dir=s3://BUCKET/..., or to "
        "a disk that all nodes share"
    )


def refuse_unseen(out: Location, need: Mapping[str, float]) -> None:
    """Refuse a local directory that a node does not see which may get a worker.

    Args:
        out: the stage's directory.
        need: resources of one worker.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    others = [node for node in nodes if node["Alive"] and node["NodeID"] != own]
    able = [node for node in others if _has(node["Resources"], need)]
    for node in able if out.local is not None else []:
        if not sees(node["NodeID"], out):
            raise unseen(out, node["NodeManagerHostname"])


def sees(node: str, place: Location) -> bool:
    """Return whether `place` exists as a node sees it.

    Args:
        node: its id in Ray.
        place: a file or directory.
    """
    there: Any = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, scheduling_strategy=there)(Location.exists)
    found: bool = ray.get(task.remote(place))
    return found


def _has(resources: Mapping[str, float], need: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in need.items())
