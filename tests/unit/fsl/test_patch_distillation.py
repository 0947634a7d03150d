"""Patch losses against loops over images, partners and patches, and their symmetries."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fsl.losses.patch_distillation as patches
import fsl.losses.soft_cross_entropy as fused
from fsl.losses.patch_distillation import (
    PatchPlan,
    masked_plan,
    match_patches,
    matched_plan,
    released_plan,
)
from fsl.losses.soft_cross_entropy import SoftTargets, folded_cross_entropy

B, N, D, K = 7, 6, 5, 8
LABELS = torch.tensor([2, 0, 2, 4, 0, 2, 9])
EYE = torch.eye(K, dtype=torch.float64)
Plan = Callable[..., PatchPlan]


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def inputs() -> dict[str, Tensor]:
    return {
        "student": random(2 * B, N, D, seed=1),
        "teacher": random(2 * B, N, D, seed=2),
        "attention": random(2 * B, 3, N, seed=3).exp(),
        "student_logits": random(2 * B, N, K, seed=4),
        "teacher_logits": random(2 * B, N, K, seed=5),
    }


def loss_of(plan: PatchPlan, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    center = torch.linspace(-0.5, 0.5, K, dtype=torch.float64)
    teacher = teacher_logits.flatten(0, 1)[plan.teacher_rows]
    return folded_cross_entropy(
        student_logits.flatten(0, 1)[plan.student_rows],
        EYE,
        SoftTargets(teacher, EYE, center, 0.3),
        plan.fold,
        0.1,
    )


def loss(plan_of: Plan, labels: Tensor, data: dict[str, Tensor], attention: bool) -> Tensor:
    omega = data["attention"] if attention else None
    plan = plan_of(data["student"], data["teacher"], labels, K, omega)
    return loss_of(plan, data["student_logits"], data["teacher_logits"])


def obvious(labels: Tensor, data: dict[str, Tensor], attention: bool) -> Tensor:
    """Eqs. (4) and (5) as they are written."""
    student = F.normalize(data["student"], dim=-1).view(2, B, N, D)
    teacher = F.normalize(data["teacher"], dim=-1).view(2, B, N, D)
    center = torch.linspace(-0.5, 0.5, K, dtype=torch.float64)
    log_p = (data["student_logits"] / 0.1).log_softmax(-1).view(2, B, N, K)
    q = ((data["teacher_logits"] - center) / 0.3).softmax(-1).view(2, B, N, K)
    omega = torch.full((2, B, N), 1 / N, dtype=torch.float64)
    if attention:
        mean = data["attention"].mean(1).view(2, B, N)
        omega = mean / mean.sum(-1, keepdim=True)
    total, members = torch.zeros((), dtype=torch.float64), set()
    for s, t in ((0, 1), (1, 0)):
        for i in range(B):
            mates = [j for j in range(B) if j != i and labels[j] == labels[i]]
            members |= {i} if mates else set()
            for j in mates:
                for k in range(N):
                    best = (student[s, i] @ teacher[t, j, k]).argmax()
                    term = -(q[t, j, k] * log_p[s, i, best]).sum()
                    total = total + omega[t, j, k] * term / len(mates)
    return total / (2 * max(1, len(members)))


@pytest.mark.parametrize("attention", [False, True], ids=["uniform", "attention"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_matched_loss_is_that_of_the_loops_at_any_chunk_size(
    monkeypatch: pytest.MonkeyPatch, attention: bool, chunk: int
) -> None:
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", chunk * K)
    monkeypatch.setattr(patches, "SIMILARITY_ELEMENTS", chunk * N * N)
    found = loss(matched_plan, LABELS, inputs(), attention)
    torch.testing.assert_close(found, obvious(LABELS, inputs(), attention), rtol=1e-6, atol=0)


@pytest.mark.parametrize("plan_of", [matched_plan, released_plan])
def test_small_chunks_make_several_blocks_that_cover_all_rows(
    monkeypatch: pytest.MonkeyPatch, plan_of: Plan
) -> None:
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", K)
    data = inputs()
    plan = plan_of(data["student"], data["teacher"], LABELS, K)
    blocks = plan.fold.blocks
    assert len(blocks) == 4  # two classes with classmates, two view combinations
    assert blocks[0].row == 0
    assert blocks[-1].row_end == len(plan.student_rows)
    assert all(a.row_end == b.row for a, b in pairwise(blocks))


@pytest.mark.parametrize("attention", [False, True], ids=["uniform", "attention"])
def test_the_order_of_images_does_not_matter(attention: bool) -> None:
    order, data = torch.tensor([6, 2, 0, 5, 4, 1, 3]), inputs()
    shuffled = {name: torch.cat([x[:B][order], x[B:][order]]) for name, x in data.items()}
    expected = loss(matched_plan, LABELS, data, attention)
    found = loss(matched_plan, LABELS[order], shuffled, attention)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("plan_of", [matched_plan, released_plan])
def test_class_numbers_mean_nothing(plan_of: Plan) -> None:
    renamed = torch.tensor([5, 0, 1, 0, 8, 0, 0, 0, 0, 3])[LABELS]
    expected = loss(plan_of, LABELS, inputs(), attention=False)
    found = loss(plan_of, renamed, inputs(), attention=False)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("plan_of", [matched_plan, released_plan])
def test_only_single_images_give_exactly_zero_with_the_graph_intact(plan_of: Plan) -> None:
    data = inputs()
    data["student_logits"].requires_grad_()
    found = loss(plan_of, torch.arange(B), data, attention=False)
    found.backward()
    assert found.item() == 0.0
    gradient = data["student_logits"].grad
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_released_matching_teaches_the_first_image_of_a_class_only() -> None:
    data = inputs()
    data["student_logits"].requires_grad_()
    loss(released_plan, LABELS, data, attention=False).backward()
    learns = data["student_logits"].grad.abs().sum((-1, -2)).view(2, B) > 0
    assert learns.nonzero()[:, 1].unique().tolist() == [0, 1]


def test_of_equal_similarities_the_first_patch_wins() -> None:
    student = torch.ones(2, N, D)
    found = match_patches(student, random(2, N, D, seed=0).float(), torch.tensor([[0, 1], [1, 0]]))
    assert torch.equal(found, torch.zeros(2, N, dtype=torch.int64))


def test_masked_loss_averages_over_masked_patches_then_over_all_images() -> None:
    masks = random(2 * B, 2, 3, seed=7) > 0.3
    masks[3] = False
    data = inputs()
    center = torch.linspace(-0.5, 0.5, K, dtype=torch.float64)
    log_p = (data["student_logits"] / 0.1).log_softmax(-1)
    q = ((data["teacher_logits"] - center) / 0.3).softmax(-1)
    entropy = -(q * log_p).sum(-1)  # (2B, N)
    flat = masks.flatten(1)
    expected = ((entropy * flat).sum(1) / flat.sum(1).clamp_min(1)).mean()
    plan = masked_plan(masks, 2, K)
    assert len(plan.student_rows) == int(flat.sum())
    found = loss_of(plan, data["student_logits"], data["teacher_logits"])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_no_masked_patch_gives_exactly_zero() -> None:
    data = inputs()
    plan = masked_plan(torch.zeros(2 * B, 2, 3, dtype=torch.bool), 2, K)
    assert loss_of(plan, data["student_logits"], data["teacher_logits"]).item() == 0.0
