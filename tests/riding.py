"""Small methods with additions on them, for tests."""

from __future__ import annotations

from typing import Any

import torch

from fsl.additions import AnyAdditions
from fsl.backbones import AnyBackboneConfig, build_backbone
from fsl.config import Section, build
from fsl.images import ImageSpec
from fsl.method import AnyMethodConfig, Method, build_method
from fsl.toys import toy_episode, toy_labelled_batch, toy_multiview_batch
from fsl.types import Progress

IMAGES = ImageSpec(size=32, resize=32)
VIT = {"name": "vit", "size": "micro", "width": 32, "depth": 3, "drop_path": 0.0}
CONV = {"name": "conv4", "width": 16, "halvings": 3, "pool": "mean"}
START = Progress(10, 100, 10)


class Recipe(Section):
    method: AnyMethodConfig
    backbone: AnyBackboneConfig
    additions: AnyAdditions = {}  # noqa: RUF012


def made(method: dict[str, Any], additions: dict[str, Any], backbone: Any = None) -> Method[Any]:
    tree = {"method": method, "backbone": backbone or VIT, "additions": additions}
    recipe = build(Recipe, tree)
    torch.manual_seed(0)
    whole = build_method(recipe.method, build_backbone(recipe.backbone, IMAGES))
    whole.attach(recipe.additions, IMAGES)
    return whole


def supervised(additions: dict[str, Any], backbone: Any = None) -> Method[Any]:
    return made({"name": "supervised", "classes": 3}, additions, backbone)


def batch_of(method: Method[Any]) -> Any:
    kind = method.batch_type.__name__
    if kind == "Episode":
        return toy_episode(images=IMAGES)
    if kind == "LabelledBatch":
        return toy_labelled_batch(images=IMAGES, classes=3)
    return toy_multiview_batch(images=IMAGES, grid=method.backbone.grid(32))  # type: ignore[operator]


CONSTANT = {"schedule": "constant", "pairs": 16, "hidden": 16}
SMALL_HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 32}
CARRIERS = {
    "supervised": {"name": "supervised", "classes": 3},
    "masked_distillation": {"name": "masked_distillation", "head": SMALL_HEAD},
    "smkd": {"name": "smkd", "head": SMALL_HEAD},
    "protonet": {"name": "protonet"},
    "crosstransformer": {"name": "crosstransformer"},
    "simclr": {"name": "simclr"},
    "moco": {"name": "moco", "head": {"hidden": 16, "output": 8}},
}
