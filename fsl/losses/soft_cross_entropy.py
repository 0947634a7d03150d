"""Linear prototypes + soft cross-entropy, fused: logits exist for one chunk of rows at a time.

Every self-distillation loss here is one sum over (student row r, teacher row c) pairs,

    L = sum_{r,c} w_rc CE(q_c, softmax(z_r / tau_s)),      z_r = W x_r,

with teacher probabilities q_c. It folds to one term per student row: with T_r = sum_c w_rc q_c
and m_r = sum_c w_rc,

    L = sum_r  m_r logsumexp(z_r / tau_s) - <T_r, z_r> / tau_s,
    dL/dz_r = (m_r softmax(z_r / tau_s) - T_r) / tau_s.

So the number of pairs costs nothing but a weighted sum of probability rows. Gradients of x and W
are formed chunk by chunk in the forward pass: no [rows, K] tensor outlives its chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 22
"""Logits per chunk: 16 MB of float32, which stays near the processor and keeps matmuls wide."""

Targets = Callable[[int, int], Tensor]
"""(start, stop) -> teacher probabilities (stop - start, K) of those teacher rows, no gradient."""


class Block(NamedTuple):
    """Student rows [row, row_end) take targets only from teacher rows [column, column_end)."""

    row: int
    row_end: int
    column: int
    column_end: int


class Fold(NamedTuple):
    """Weights w_rc, in compressed rows; `columns` None means that row r takes teacher row r only.

    Teacher probabilities are made block by block, so a block bounds what exists at once.
    """

    weights: Tensor  # (entries,)
    columns: Tensor | None  # (entries,) int64, teacher row of each entry
    offsets: Tensor | None  # (R + 1,) int64, where each student row's entries begin
    blocks: Sequence[Block]

    @staticmethod
    def one_to_one(weights: Tensor, prototypes: int) -> Fold:
        """Row r takes `weights[r]` of teacher row r."""
        rows, step = len(weights), chunk_rows(prototypes)
        starts = range(0, rows, step)
        ends = [min(start + step, rows) for start in starts]
        return Fold(
            weights, None, None, [Block(a, b, a, b) for a, b in zip(starts, ends, strict=True)]
        )

    @staticmethod
    def from_entries(
        rows: Tensor,
        columns: Tensor,
        weights: Tensor,
        size: tuple[int, int],
        blocks: Sequence[Block] | None = None,
    ) -> Fold:
        """Entries (row, column, weight) in any order, repeated ones add up.

        Args:
            rows: (entries,) student row of each entry.
            columns: (entries,) teacher row of each entry.
            weights: (entries,) w_rc.
            size: numbers of student rows and of teacher rows.
            blocks: see `Block`; default one block of everything.
        """
        order = rows.argsort(stable=True)
        offsets = F.pad(torch.bincount(rows, minlength=size[0]).cumsum(0), (1, 0))
        return Fold(
            weights[order], columns[order], offsets, blocks or [Block(0, size[0], 0, size[1])]
        )


def chunk_rows(prototypes: int) -> int:
    """Rows per chunk for K prototypes."""
    return max(1, CHUNK_ELEMENTS // prototypes)


def teacher_probabilities(
    features: Tensor, prototypes: Tensor, center: Tensor, temperature: float
) -> Tensor:
    """softmax((W x - C) / tau_t), (n, P), (K, P), (K,) -> (n, K), float32 even under autocast.

    The centre is subtracted before the division: at tau_t 0.04 the order matters.
    """
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        dtype = _precise(features)
        logits = torch.addmm(-center.to(dtype), features.to(dtype), prototypes.to(dtype).mT)
        logits.div_(temperature)
        shares = logits.sub_(logits.amax(-1, keepdim=True)).exp_()  # softmax without a copy
        return shares.div_(shares.sum(-1, keepdim=True))


@dataclass(frozen=True)
class SoftTargets:
    """Targets made from teacher features when a block needs them."""

    features: Tensor  # (C, P)
    prototypes: Tensor  # (K, P), the teacher's
    center: Tensor  # (K,)
    temperature: float

    def __call__(self, start: int, stop: int) -> Tensor:
        """Return the probabilities (stop - start, K) of some teacher rows."""
        return teacher_probabilities(
            self.features[start:stop], self.prototypes, self.center, self.temperature
        )


def folded_cross_entropy(
    student: Tensor, prototypes: Tensor, targets: Targets, fold: Fold, temperature: float
) -> Tensor:
    """Return sum_rc w_rc CE(q_c, softmax(W x_r / temperature)), exact, in float32 or float64.

    Args:
        student: features x (R, P), normalised by the head.
        prototypes: W (K, P).
        targets: makes teacher probabilities.
        fold: the weights w.
        temperature: tau_s.

    Returns:
        () scalar; with no rows it is 0 and gradients are 0, never NaN.
    """
    with torch.autocast(student.device.type, enabled=False):
        dtype = _precise(student)
        value: Tensor = _FoldedCrossEntropy.apply(
            student.to(dtype), prototypes.to(dtype), targets, fold, temperature
        )
    return value


class _FoldedCrossEntropy(torch.autograd.Function):
    """Gradients are made in `forward`, while a chunk's logits exist; `backward` scales them."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes arguments by position
        ctx: Any, student: Tensor, weight: Tensor, targets: Targets, fold: Fold, temperature: float
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_student = torch.zeros_like(student) if wanted else None
        grad_weight = torch.zeros_like(weight) if wanted else None
        scaled = student / temperature
        total = student.new_zeros(())
        step = chunk_rows(len(weight))
        for block in fold.blocks:
            probabilities = targets(block.column, block.column_end).to(student.dtype)
            for start in range(block.row, block.row_end, step):
                stop = min(start + step, block.row_end)
                target, mass = _fold_targets(fold, probabilities, start, stop, block.column)
                value, delta = _chunk(scaled[start:stop], weight, target, mass)
                total += value
                if grad_student is not None and grad_weight is not None:
                    torch.mm(delta, weight, out=grad_student[start:stop])
                    grad_weight.addmm_(delta.mT, scaled[start:stop])
        if grad_student is not None and grad_weight is not None:
            ctx.save_for_backward(grad_student.div_(temperature), grad_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_student, grad_weight = ctx.saved_tensors
        return grad_student * grad, grad_weight * grad, None, None, None


def _chunk(scaled: Tensor, weight: Tensor, target: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss () of some rows and its derivative (r, K) by the scaled logits."""
    logits = scaled @ weight.mT  # (r, K)
    logits -= logits.amax(-1, keepdim=True)  # cancels: the target's mass is m_r
    cross = torch.linalg.vecdot(target, logits)
    shares = logits.exp_()
    sums = shares.sum(-1)
    value = (mass * sums.log() - cross).sum()
    return value, shares.mul_((mass / sums).unsqueeze(-1)).sub_(target)


def _fold_targets(
    fold: Fold, probabilities: Tensor, start: int, stop: int, column: int
) -> tuple[Tensor, Tensor]:
    """Return T (r, K) and m (r,) of student rows [start, stop).

    One to one, the block's probabilities are consumed in place: blocks are chunks there.
    """
    weights = fold.weights.to(probabilities.dtype)
    if fold.columns is None or fold.offsets is None:
        mass = weights[start:stop]
        return probabilities[start - column : stop - column].mul_(mass.unsqueeze(-1)), mass
    offsets = fold.offsets[start : stop + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    offsets = offsets - first
    entries = weights[first:last]
    # A bag sums weighted probability rows without building (entries, K).
    target = F.embedding_bag(
        fold.columns[first:last] - column,
        probabilities,
        offsets,
        mode="sum",
        per_sample_weights=entries,
        include_last_offset=True,
    )
    rows = torch.repeat_interleave(offsets.diff())
    return target, entries.new_zeros(stop - start).index_add_(0, rows, entries)


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
