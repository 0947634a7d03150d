"""Imports every source of this package, so that each registers its name."""

from data_shards import (
    cifar,
    compositions,
    csv_lists,
    domains,
    folder,
    matlab_sets,
    omniglot,
    synthetic,
)

__all__ = [
    "cifar",
    "compositions",
    "csv_lists",
    "domains",
    "folder",
    "matlab_sets",
    "omniglot",
    "synthetic",
]
