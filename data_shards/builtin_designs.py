"""Imports every design of training tasks, so that each registers its name."""

from data_shards import episode_designs, variable_episodes

__all__ = ["episode_designs", "variable_episodes"]
