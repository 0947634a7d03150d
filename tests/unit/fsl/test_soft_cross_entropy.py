"""The fused loss against the obvious one, at sizes where chunks and blocks have ragged ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fsl.losses.soft_cross_entropy as fused
from fsl.losses.soft_cross_entropy import (
    Block,
    Fold,
    SoftTargets,
    folded_cross_entropy,
    teacher_probabilities,
)

R, C, K, P = 11, 7, 9, 4


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", 4 * K)  # four rows per chunk


def features(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, P, generator=generator, dtype=dtype)


def entries(count: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randint(R, (count,), generator=generator)
    columns = torch.randint(C, (count,), generator=generator)
    return rows, columns, torch.rand(count, generator=generator, dtype=torch.float64)


def targets(dtype: torch.dtype = torch.float64, rows: int = C) -> SoftTargets:
    center = torch.linspace(-1, 1, K, dtype=dtype)
    return SoftTargets(features(rows, 1, dtype), features(K, 2, dtype), center, 0.3)


def obvious(student: Tensor, weight: Tensor, soft: SoftTargets, dense: Tensor) -> Tensor:
    """All logits, all pairs."""
    q = ((soft.features @ soft.prototypes.mT - soft.center) / soft.temperature).softmax(-1)
    log_p = (student @ weight.mT / 0.2).log_softmax(-1)
    return -(dense * (log_p @ q.mT)).sum()


def dense_weights(rows: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
    return torch.zeros(R, C, dtype=torch.float64).index_put((rows, columns), weights, True)


def test_loss_and_gradients_are_those_of_the_obvious_form() -> None:
    fold = Fold.from_entries(*entries(), (R, C))
    results = []
    for which in ("fused", "obvious"):
        student = features(R, 3).requires_grad_()
        weight = features(K, 4).requires_grad_()
        if which == "fused":
            loss = folded_cross_entropy(student, weight, targets(), fold, 0.2)
        else:
            loss = obvious(student, weight, targets(), dense_weights(*entries()))
        (3 * loss).backward()
        results.append((loss.detach(), student.grad, weight.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_gradcheck_of_weighted_pairs() -> None:
    fold = Fold.from_entries(*entries(), (R, C))
    inputs = (features(R, 3).requires_grad_(), features(K, 4).requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x, w: folded_cross_entropy(x, w, targets(), fold, 0.2), inputs
    )


def test_gradcheck_of_one_to_one_rows() -> None:
    fold = Fold.one_to_one(torch.rand(R, dtype=torch.float64), K)
    assert len(fold.blocks) == 3
    inputs = (features(R, 3).requires_grad_(), features(K, 4).requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x, w: folded_cross_entropy(x, w, targets(rows=R), fold, 0.2), inputs
    )


def test_blocks_do_not_change_the_loss() -> None:
    rows = torch.tensor([0, 1, 2, 3, 5, 6, 9, 10])
    columns = torch.tensor([0, 1, 1, 2, 3, 4, 6, 5])
    weights = torch.rand(8, dtype=torch.float64)
    blocks = [Block(0, 4, 0, 3), Block(4, 8, 3, 5), Block(8, 11, 5, 7)]
    student, weight = features(R, 3), features(K, 4)
    whole = folded_cross_entropy(
        student, weight, targets(), Fold.from_entries(rows, columns, weights, (R, C)), 0.2
    )
    cut = folded_cross_entropy(
        student, weight, targets(), Fold.from_entries(rows, columns, weights, (R, C), blocks), 0.2
    )
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("student_rows", [0, 3])
def test_nothing_to_learn_from_is_exactly_zero_with_zero_gradients(student_rows: int) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    fold = Fold.from_entries(none, none, torch.zeros(0), (student_rows, 0))
    student = features(student_rows, 3, torch.float32).requires_grad_()
    weight = features(K, 4, torch.float32).requires_grad_()
    loss = folded_cross_entropy(student, weight, targets(torch.float32, rows=0), fold, 0.2)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_one_to_one_of_no_rows_is_exactly_zero() -> None:
    student = torch.zeros(0, P, requires_grad=True)
    fold = Fold.one_to_one(torch.zeros(0), K)
    loss = folded_cross_entropy(
        student, torch.randn(K, P), targets(torch.float32, rows=0), fold, 0.2
    )
    loss.backward()
    assert loss.item() == 0.0


def test_bfloat16_autocast_changes_nothing() -> None:
    fold = Fold.from_entries(*entries(), (R, C))
    student, weight = features(R, 3, torch.float32), features(K, 4, torch.float32)
    expected = folded_cross_entropy(student, weight, targets(torch.float32), fold, 0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = folded_cross_entropy(student, weight, targets(torch.float32), fold, 0.2)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_extreme_logits_stay_finite() -> None:
    student = (1e4 * features(R, 3, torch.float32)).requires_grad_()
    fold = Fold.one_to_one(torch.ones(R), K)
    soft = SoftTargets(1e4 * features(R, 1, torch.float32), features(K, 2, torch.float32),
                       torch.zeros(K), 0.04)  # fmt: skip
    loss = folded_cross_entropy(student, features(K, 4, torch.float32), soft, fold, 0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def test_logits_of_all_rows_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, prototypes = 500, 200
    monkeypatch.setattr(fused, "CHUNK_ELEMENTS", 16 * prototypes)
    student = features(rows, 3, torch.float32).requires_grad_()
    weight = features(prototypes, 4, torch.float32).requires_grad_()
    soft = SoftTargets(student.detach(), weight.detach(), torch.zeros(prototypes), 0.1)
    with LargestTensor() as seen:
        folded_cross_entropy(
            student, weight, soft, Fold.one_to_one(torch.ones(rows), prototypes), 0.1
        ).backward()
    assert seen.largest <= 16 * prototypes


def test_center_is_subtracted_before_the_temperature_divides() -> None:
    soft = targets()
    found = teacher_probabilities(soft.features, soft.prototypes, soft.center, 0.04)
    logits = (soft.features @ soft.prototypes.mT - soft.center) / 0.04
    torch.testing.assert_close(found, logits.softmax(-1))
