"""NCA: the shared contract, then what its formula says. Run with the package installed."""

from __future__ import annotations

import torch
from nca import NCAConfig, nca_loss

from fsl.testing import MethodContract


class TestNCA(MethodContract):
    config = NCAConfig()


def test_two_pairs_far_apart_cost_nothing() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    loss, found = nca_loss(features, torch.tensor([0, 0, 1, 1]), temperature=0.05)
    assert loss < 1e-6
    assert found == 1


def test_equal_features_leave_the_choice_to_chance() -> None:
    loss, _ = nca_loss(torch.ones(4, 3), torch.tensor([0, 0, 1, 1]), temperature=0.1)
    torch.testing.assert_close(loss, torch.tensor(3.0).log())


def test_images_without_classmates_give_zero_loss_and_zero_gradient() -> None:
    features = torch.randn(3, 4, requires_grad=True)
    loss, _ = nca_loss(features, torch.tensor([0, 1, 2]), temperature=0.1)
    loss.backward()
    assert loss == 0
    assert features.grad is not None
    assert features.grad.abs().max() == 0
