"""Imports every source of this package, so that each registers its name."""

from data_shards import csv_lists, folder, omniglot, synthetic

__all__ = ["csv_lists", "folder", "omniglot", "synthetic"]
