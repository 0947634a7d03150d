"""Class-token losses against loops over images and views, and their symmetries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fsl.losses.self_distillation import class_loss, same_class_pairs, supervised_fold, view_fold

B, K, VIEWS = 6, 10, 5
LABELS = torch.tensor([3, 1, 3, 0, 1, 3])


def probabilities(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * B, K, generator=generator, dtype=torch.float64).mul(3).softmax(-1)


def logits(seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(VIEWS * B, K, generator=generator, dtype=torch.float64)


def loss_of(student: Tensor, targets: Tensor, fold: object) -> Tensor:
    return class_loss(student, torch.eye(K, dtype=torch.float64), targets, fold, 0.1)  # type: ignore[arg-type]


def cross_entropies(student: Tensor, targets: Tensor) -> Tensor:
    """CE[a, i, v, j] of teacher view a of image i and student view v of image j."""
    log_p = (student / 0.1).log_softmax(-1).view(VIEWS, B, K)
    return -torch.einsum("aik,vjk->aivj", targets.view(2, B, K), log_p)


def test_stage_1_averages_all_combinations_of_different_views() -> None:
    table = cross_entropies(logits(), probabilities())
    terms = [table[a, b, v, b] for a in range(2) for v in range(VIEWS) if a != v for b in range(B)]
    expected = torch.stack(terms).mean()
    found = loss_of(logits(), probabilities(), view_fold(B, 2, VIEWS, torch.device("cpu")))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_stage_2_averages_classmates_and_own_local_views() -> None:
    table = cross_entropies(logits(), probabilities())
    terms = []
    for a in range(2):
        for i in range(B):
            terms += [table[a, i, v, i] for v in range(2, VIEWS)]
            for j in range(B):
                if i != j and LABELS[i] == LABELS[j]:
                    terms += [table[a, i, v, j] for v in range(2)]
    expected = torch.stack(terms).mean()
    found = loss_of(logits(), probabilities(), supervised_fold(LABELS, 2, VIEWS))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_stage_2_does_not_depend_on_the_order_of_images_nor_on_class_numbers() -> None:
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    student, targets = logits().view(VIEWS, B, K), probabilities().view(2, B, K)
    expected = loss_of(logits(), probabilities(), supervised_fold(LABELS, 2, VIEWS))
    shuffled = loss_of(
        student[:, order].flatten(0, 1),
        targets[:, order].flatten(0, 1),
        supervised_fold(LABELS[order], 2, VIEWS),
    )
    torch.testing.assert_close(shuffled, expected, rtol=1e-7, atol=0)
    renamed = torch.tensor([7, 0, 9, 2])[LABELS]
    again = loss_of(logits(), probabilities(), supervised_fold(renamed, 2, VIEWS))
    assert torch.equal(again, expected)


def test_without_classmates_and_local_views_the_loss_is_exactly_zero() -> None:
    student = logits()[: 2 * B].requires_grad_()
    loss = loss_of(student, probabilities(), supervised_fold(torch.arange(B), 2, 2))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_an_image_without_classmates_learns_from_its_local_views_only() -> None:
    student = logits().requires_grad_()
    loss_of(student, probabilities(), supervised_fold(LABELS, 2, VIEWS)).backward()
    gradient = student.grad.view(VIEWS, B, K).abs().sum(-1)
    assert (gradient[:2, 3] == 0).all()
    assert (gradient[2:, 3] > 0).all()
    assert (gradient[:2, 0] > 0).all()


@pytest.mark.parametrize(("labels", "pairs"), [([0, 1, 2], 0), ([5, 5, 5], 6), ([1, 2, 1], 2)])
def test_pairs_are_ordered_and_of_distinct_images(labels: list[int], pairs: int) -> None:
    found = same_class_pairs(torch.tensor(labels))
    assert len(found) == pairs
    assert (found[:, 0] != found[:, 1]).all()
