"""Spaces over the toy recipe."""

from __future__ import annotations

from typing import Any

from fsl.config import build
from tests.toy_study import RECIPE
from tuning.config import StudyConfig
from tuning.space import Space, build_space

RATE = {"low": 1e-4, "high": 1e-1, "log": True}
BASE: dict[str, Any] = {"recipe": RECIPE, "search": {"optim.lr": RATE}, "study_dir": "studies/toy"}


def space_of(**settings: Any) -> Space:
    return build_space(build(StudyConfig, {**BASE, **settings}))


def two_recipes(**settings: Any) -> Space:
    """Two branches over the toy recipe: its episodic stage, and a whole second one."""
    branches = {
        "episodic": {"recipe": RECIPE, "search": {"optim.lr": RATE, "method.metric": "own"}},
        "plain": {"recipe": RECIPE, "stage": "first", "search": {"optim.lr": RATE}},
    }
    return build_space(build(StudyConfig, {"recipes": branches, **settings}))


def names(space: Space) -> list[str]:
    return [d.name for branch in space.branches.values() for d in branch.dimensions]
