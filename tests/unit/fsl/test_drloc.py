"""Dense relative localization on methods: what it sees, what it adds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fsl.additions.drloc import DRLoc, DRLocConfig
from fsl.errors import ConfigError
from fsl.types import Progress
from tests.riding import CARRIERS, CONSTANT, CONV, START, VIT, batch_of, made, supervised


@pytest.mark.parametrize("carrier", CARRIERS)
def test_drloc_rides_on_every_method_with_tokens(carrier: str) -> None:
    method = made(CARRIERS[carrier], {"drloc": {**CONSTANT, "weight": 0.5}})
    method.begin_step(START)
    torch.manual_seed(1)
    loss, metrics = method(batch_of(method))
    plain = made(CARRIERS[carrier], {})
    plain.begin_step(START)
    torch.manual_seed(1)
    alone = plain(batch_of(plain)).loss
    torch.testing.assert_close(loss, alone + 0.5 * metrics["drloc_l1_cell"])
    assert metrics["drloc_weight"] == 0.5
    loss.backward()
    assert all(p.grad is not None for p in method.additions.parameters())


@pytest.mark.parametrize("backbone", [VIT, CONV])
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "cross_entropy"},
        {"loss": "gaussian", "signed": True},
        {"signed": True, "target_scale": "unit"},
        {"sampling": "permutation", "target_scale": "span"},
        {"layers": "last", "pool": True},
    ],
)
def test_drloc_variants_lower_their_loss(backbone: Any, settings: dict[str, Any]) -> None:
    wide = {**CONSTANT, "pairs": 64, "hidden": 64, "init_std": None, "weight": 1.0}
    method = supervised({"drloc": {**wide, **settings}}, backbone)
    batch, name = batch_of(method), f"drloc_{DRLocConfig(**settings).unit}"
    optimizer = torch.optim.Adam(method.parameters(), 5e-3)
    seen = []
    for _ in range(120):
        method.begin_step(START)
        loss, metrics = method(batch)
        seen.append(float(metrics[name]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(seen[-10:]) < 0.92 * sum(seen[:10]), seen


def test_very_dense_drloc_adds_one_head_per_block() -> None:
    method = supervised({"drloc": {**CONSTANT, "layers": "blocks"}})
    addition = method.additions["drloc"]
    assert isinstance(addition, DRLoc)
    assert len(addition.heads) == 3
    method.begin_step(START)
    torch.manual_seed(0)
    total = method(batch_of(method)).metrics["drloc_l1_cell"]
    assert 3 < total < 9  # about the sum of three losses near the best constant's


def test_only_the_largest_grid_of_a_step_counts() -> None:
    method = made(CARRIERS["masked_distillation"], {"drloc": CONSTANT})
    addition: Any = method.additions["drloc"]
    seen: list[tuple[int, int]] = []
    addition._pairs = lambda images, grid, device: (
        seen.append((images, grid[0])) or torch.zeros(images, 4, 2, dtype=torch.int64)
    )
    batch = batch_of(method)
    method.begin_step(START)
    method(batch)
    assert seen == [(2 * batch.size, 8)]  # the two global views, not the local ones


def test_drloc_weight_follows_its_schedule() -> None:
    method = supervised({"drloc": {"warmup_epochs": 4, "schedule_epochs": 20, "weight": 0.8}})
    weights = []
    for epoch in (0, 2, 4, 12, 20):
        method.begin_step(Progress(epoch * 10, 300, 10))
        weights.append(float(method(batch_of(method)).metrics["drloc_weight"]))
    assert weights == pytest.approx([0, 0.4, 0.8, 0.4, 0])


def test_without_a_planned_end_the_stage_is_the_schedule() -> None:
    method = supervised({"drloc": {"warmup_epochs": 0, "weight": 1.0}})
    method.begin_step(Progress(150, 300, 10))
    assert float(method(batch_of(method)).metrics["drloc_weight"]) == 0.5


def test_class_losses_need_the_grid_they_were_made_for() -> None:
    method = supervised({"drloc": {**CONSTANT, "loss": "cross_entropy"}})
    batch = batch_of(method)
    method.begin_step(START)
    smaller = replace(batch, images=batch.images[..., :16, :16])
    with pytest.raises(ConfigError, match="made for 8 x 8 cells"):
        method(smaller)


@pytest.mark.parametrize("backbone", [{"name": "t2t", "size": "micro"}, VIT], ids=["t2t", "vit"])
def test_what_backward_computes_again_is_not_seen_again(backbone: dict[str, Any]) -> None:
    """With local crops the last grid is not that of the maps that are computed again."""
    crops = {"global_size": 32, "local_size": 16, "local_views": 2}
    carrier = {**CARRIERS["masked_distillation"], "crops": crops}
    settings = {**CONSTANT, "layers": "blocks", "pool": True}
    gradients = []
    for again in (False, True):
        still = {"drop_path": 0.0, "dropout": 0.0} if backbone["name"] == "t2t" else {}
        network = {**backbone, **still, "checkpoint_blocks": again}
        method = made(carrier, {"drloc": settings}, network)
        method.begin_step(START)
        torch.manual_seed(1)
        method(batch_of(method)).loss.backward()
        gradients.append([p.grad for p in method.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1])
