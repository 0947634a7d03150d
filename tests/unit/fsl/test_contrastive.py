"""The contrastive loss against loops over its formula, and at its ends."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.losses.contrastive import contrastive_loss


def slow_loss(features: Tensor, keys: list[int], temperature: float) -> float:
    """The formula of the module, term by term."""
    unit = [F.normalize(row, dim=0) for row in features.double()]
    total = 0.0
    for i, anchor in enumerate(unit):
        others = [j for j in range(len(unit)) if j != i]
        below = sum(math.exp(float(anchor @ unit[j]) / temperature) for j in others)
        terms = [
            -math.log(math.exp(float(anchor @ unit[j]) / temperature) / below)
            for j in others
            if keys[j] == keys[i]
        ]
        total += sum(terms) / max(1, len(terms))
    return total / len(unit)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize(
    "keys", [[0, 1, 2, 0, 1, 2], [5, 5, 3, 3, 5, 3, 3], [0, 0], [1, 2, 2, 9], [4, 4, 4]]
)
def test_the_loss_is_that_of_the_formula(keys: list[int], temperature: float) -> None:
    features = 3 * torch.randn(len(keys), 4)
    loss, _ = contrastive_loss(features, torch.tensor(keys), temperature)
    assert loss.item() == pytest.approx(slow_loss(features, keys, temperature), rel=1e-5)


def test_with_two_views_of_each_image_it_is_cross_entropy_on_the_other_view() -> None:
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    loss, _ = contrastive_loss(torch.cat([first, second]), torch.arange(5).repeat(2), 0.2)
    unit = F.normalize(torch.cat([first, second]), dim=-1)
    scores = (unit @ unit.mT / 0.2).fill_diagonal_(-math.inf)
    expected = F.cross_entropy(scores, (torch.arange(10) + 5) % 10)
    torch.testing.assert_close(loss, expected)


def test_gradients_are_those_of_finite_differences() -> None:
    features = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    for keys in (torch.arange(3).repeat(2), torch.tensor([0, 0, 0, 1, 1, 2])):
        assert torch.autograd.gradcheck(lambda x, k=keys: contrastive_loss(x, k, 0.3)[0], features)


def test_lengths_of_features_do_not_matter() -> None:
    features, keys = torch.randn(6, 4), torch.arange(3).repeat(2)
    lengths = torch.rand(6, 1) + 0.5
    loss, other = (contrastive_loss(x, keys, 0.1)[0] for x in (features, lengths * features))
    torch.testing.assert_close(loss, other)


def test_equal_features_give_the_loss_of_guessing_and_equal_views_of_unlike_images_none() -> None:
    keys = torch.arange(8).repeat(2)
    guessing, _ = contrastive_loss(torch.ones(16, 4), keys, 0.1)
    assert guessing.item() == pytest.approx(math.log(15), rel=1e-5)
    certain, found = contrastive_loss(torch.eye(8).repeat(2, 1), keys, 0.01)
    assert certain.item() == pytest.approx(0, abs=1e-6)
    assert found == 1


def test_accuracy_counts_views_whose_nearest_other_is_a_positive() -> None:
    angles = torch.tensor([0.0, 0.1, 0.25, 2.0])  # neighbours: 0 -> 1, 1 -> 0, 2 -> 1, 3 -> 2
    features = torch.stack([angles.cos(), angles.sin()], -1)
    _, found = contrastive_loss(features, torch.tensor([0, 0, 1, 1]), 0.1)
    assert found.item() == pytest.approx(3 / 4)


def test_a_view_without_positives_or_without_company_adds_nothing() -> None:
    features = torch.randn(1, 4, requires_grad=True)
    loss, found = contrastive_loss(features, torch.tensor([0]), 0.1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert (loss.item(), found.item()) == (0, 0)
    assert torch.equal(features.grad, torch.zeros(1, 4))  # type: ignore[arg-type]


def test_loss_and_gradient_stay_precise_under_bfloat16_autocast() -> None:
    features, keys = torch.randn(32, 64), torch.arange(16).repeat(2)
    results = []
    for enabled in (False, True):
        leaf = features.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss, _ = contrastive_loss(leaf, keys, 0.02)
        loss.backward()  # type: ignore[no-untyped-call]
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0])


def test_half_precision_features_are_compared_in_float32() -> None:
    features, keys = torch.randn(8, 16).bfloat16(), torch.arange(4).repeat(2)
    loss, _ = contrastive_loss(features, keys, 0.05)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, contrastive_loss(features.float(), keys, 0.05)[0])
