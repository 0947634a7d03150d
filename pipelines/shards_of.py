"""The shard set of a stage that gives shards."""

from __future__ import annotations

from data_shards.location import Location
from data_shards.manifest import ShardSet


def open_shards(path: Location) -> ShardSet:
    """Return the shard set at the `path` of such a stage's result."""
    return ShardSet.open(path)
