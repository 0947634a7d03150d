"""A tree over the classes of a shard set (WordNet for ImageNet), read from `class_tree.json`.

    {"nodes": [{"name": "dog", "classes": ["n02085620", "n02085782"]}, ...]}

Each inner node lists the classes below it, at any depth. Classes of other splits may be listed
too: a split sees of each node what it has itself.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_shards.location import Location
from fsl.errors import ConfigError

TREE_NAME = "class_tree.json"


@lru_cache(maxsize=16)
def read_class_tree(root: Location) -> dict[str, tuple[str, ...]]:
    """Return node -> names of the classes below it, from the file in a shard set's directory."""
    where = root / TREE_NAME
    if not where.exists():
        raise ConfigError(
            f"{where}: missing, and the tasks are to follow a class tree; put it there or set "
            "class_tree: false"
        )
    try:
        nodes = json.loads(where.read_text())["nodes"]
        found = {str(node["name"]): tuple(map(str, node["classes"])) for node in nodes}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{where}: not a class tree ({type(error).__name__}: {error}); expected "
            '{"nodes": [{"name": ..., "classes": [...]}, ...]}'
        ) from None
    if len(found) != len(nodes):
        raise ConfigError(f"{where}: two nodes have the same name; name each once")
    return found


def tree_digest(root: Location) -> str:
    """Return a digest of the file in a shard set's directory, "" without one.

    Tasks may follow the tree, and the digest of the shard set does not cover it.
    """
    where = root / TREE_NAME
    return hashlib.sha256(where.read_bytes()).hexdigest() if where.exists() else ""


@lru_cache(maxsize=64)
def node_classes(
    root: Location, class_names: tuple[str, ...], usable: bytes, fewest: int, most: int
) -> tuple[NDArray[np.int64], ...]:
    """Return, per node with `fewest` to `most` usable classes below it, those classes.

    Args:
        root: directory of the shard set.
        class_names: classes of the split, in label order.
        usable: one byte per class, 1 where the class takes part.
        fewest: classes a node must have.
        most: classes a node may have.
    """
    labels = {name: label for label, name in enumerate(class_names) if usable[label]}
    nodes = []
    for names in read_class_tree(root).values():
        below = sorted({labels[name] for name in names if name in labels})
        if fewest <= len(below) <= most:
            nodes.append(np.array(below, np.int64))
    if not nodes:
        raise ConfigError(
            f"{root / TREE_NAME}: no node has {fewest} to {most} classes of the split below it; "
            "correct the tree or set class_tree: false"
        )
    return tuple(nodes)
