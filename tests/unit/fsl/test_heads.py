"""The projection head beyond its parity vectors."""

from __future__ import annotations

import pytest
import torch

from fsl import heads
from fsl.heads import HeadConfig, ProjectionHead

SMALL = {"prototypes": 12, "hidden": 16, "bottleneck": 6}


def test_features_and_prototypes_have_length_one_at_the_start() -> None:
    head = ProjectionHead(8, HeadConfig(**SMALL))
    features = head.project(torch.randn(5, 8))
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(head.class_prototypes().norm(dim=-1), torch.ones(12))


def test_projecting_some_rows_gives_those_rows_of_all() -> None:
    head = ProjectionHead(8, HeadConfig(**SMALL, norm="batch"))
    tokens = 3 + torch.randn(2, 10, 8)
    standardiser = head.standardiser(tokens)
    rows = torch.tensor([3, 11, 17])
    some = head.project(tokens.flatten(0, 1)[rows], standardiser)
    torch.testing.assert_close(some, head.project(tokens.flatten(0, 1), standardiser)[rows])


def test_without_gradient_rows_are_projected_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    head = ProjectionHead(8, HeadConfig(**SMALL))
    rows = torch.randn(10, 8)
    expected = head.project(rows).detach()
    monkeypatch.setattr(heads, "ROWS_WITHOUT_GRADIENT", 4)
    with torch.no_grad():
        torch.testing.assert_close(head.project(rows), expected)


def test_batch_norm_takes_features_that_are_nearly_alike_apart() -> None:
    tokens = torch.randn(1, 8) + 1e-2 * torch.randn(32, 8)
    spread = {}
    for norm in ("none", "batch"):
        torch.manual_seed(0)
        head = ProjectionHead(8, HeadConfig(**SMALL, norm=norm))
        features = head.project(tokens, head.standardiser(tokens))
        spread[norm] = features.std(0).norm().item()
    assert spread["batch"] > 20 * spread["none"]


def test_gains_can_be_frozen() -> None:
    head = ProjectionHead(8, HeadConfig(**SMALL, learn_gain=False))
    assert not head.class_layer.gain.requires_grad
    assert head.class_layer.direction.requires_grad


@pytest.mark.parametrize("separate", [None, 5])
def test_last_layers_are_the_prototypes(separate: int | None) -> None:
    head = ProjectionHead(8, HeadConfig(**SMALL, patch_prototypes=separate))
    assert len(head.last_layers()) == (2 if separate is None else 4)
    assert len(head.patch_prototypes()) == (12 if separate is None else 5)


def test_half_precision_rows_give_float32_unit_features() -> None:
    head = ProjectionHead(8, HeadConfig(**SMALL))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = head.project(torch.randn(5, 8))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(5))
