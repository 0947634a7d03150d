"""Choices that a method or its network cannot have are refused before any trial."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from fsl.errors import ConfigError
from tests.toy_study import RECIPE, VALIDATION, VIEW
from tuning.config import load_study
from tuning.space import Space, build_space

SMKD = {
    "kind": "train",
    "needs": ["shards"],
    "images": {"mode": "grey", "normalisation": "half", "size": 16, "resize": 16},
    "method": {
        "name": "smkd",
        "crops": {"global_size": 16, "local_size": 8, "local_views": 1},
        "head": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
    },
    "data": {"order": {"name": "class_balanced", "images_per_class": 4}},
    "optim": {"epochs": 1, "warmup_epochs": 0},
    "validation": VALIDATION,
}
CONV = {"name": "conv4", "widths": [4, 4, 4, 8], "halvings": 3, "mask_stage": 3, "pool": "mean"}
VIT = {"name": "vit", "width": 16, "depth": 2, "heads": 2, "patch": 8}


def space(folder: Path, backbone: dict[str, Any], search: dict[str, Any]) -> Space:
    stages = {"shards": RECIPE["stages"]["shards"], "smkd": {**SMKD, "backbone": backbone}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"recipe": "recipe.yaml", "search": search}))
    return build_space(load_study(path))


def test_attention_of_a_network_without_any_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method.omega: 'attention', .* Conv4 has none"):
        space(tmp_path, CONV, {"method.omega": "own"})


def test_the_same_choice_stands_where_the_network_has_attention(tmp_path: Path) -> None:
    (branch,) = space(tmp_path, VIT, {"method.omega": "own"}).branches.values()
    assert [dimension.name for dimension in branch.dimensions] == ["method.omega"]


def test_a_method_that_learns_the_number_of_classes_from_the_data_is_tried_too(
    tmp_path: Path,
) -> None:
    recipe = copy.deepcopy(RECIPE)
    recipe["stages"]["first"]["method"] = {"name": "supervised", "view": VIEW}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    path = tmp_path / "study.yaml"
    search = {"method.classifier": {"choices": ["cosine", "linear"]}}
    path.write_text(yaml.safe_dump({"recipe": "recipe.yaml", "stage": "first", "search": search}))
    assert build_space(load_study(path)).branches
