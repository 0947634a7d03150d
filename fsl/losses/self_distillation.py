"""Class-token self-distillation: which student view learns from which teacher view.

Views are stacked view-major: row v * B + b is view v of image b. The teacher has the G global
views only, the student all V. Equation numbers are those of the SMKD paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fsl.losses.soft_cross_entropy import Fold, folded_cross_entropy


def same_class_pairs(labels: Tensor) -> Tensor:
    """Return all ordered pairs of distinct images of one class, labels (B,) -> (P, 2) int64."""
    same = labels[:, None] == labels[None, :]
    same.fill_diagonal_(False)
    return same.nonzero()


def view_fold(batch: int, global_views: int, views: int, device: torch.device) -> Fold:
    """Stage 1, eq. (1): student view v of an image learns from teacher views a != v of that image.

    The weight of every (a, v) combination is equal and they sum to one over the batch.
    """
    teacher, student = torch.meshgrid(
        torch.arange(global_views, device=device), torch.arange(views, device=device), indexing="ij"
    )
    other = teacher != student
    teacher, student = teacher[other], student[other]  # (combinations,)
    rows, columns = _per_image(student, teacher, batch)
    weight = 1.0 / max(1, len(teacher) * batch)
    weights = torch.full((len(rows),), weight, device=device)
    return Fold.from_entries(rows, columns, weights, (views * batch, global_views * batch))


def supervised_fold(labels: Tensor, global_views: int, views: int) -> Fold:
    """Stage 2, eq. (3): global views learn from classmates, local views from their own image.

    Global student views take every global teacher view of each classmate, also the same view;
    local student views take the teacher's global views of their own image. All terms have equal
    weight. Nothing to learn from gives a fold without entries, whose loss is 0.
    """
    batch, device = len(labels), labels.device
    grid = torch.arange(global_views, device=device)
    teacher, student = (view.flatten() for view in torch.meshgrid(grid, grid, indexing="ij"))
    pairs = same_class_pairs(labels)
    rows = student[:, None] * batch + pairs[None, :, 0]  # (G * G, P)
    columns = teacher[:, None] * batch + pairs[None, :, 1]
    local = torch.arange(global_views, views, device=device)
    teacher, student = (view.flatten() for view in torch.meshgrid(grid, local, indexing="ij"))
    local_rows, local_columns = _per_image(student, teacher, batch)
    all_rows = torch.cat([rows.flatten(), local_rows])
    all_columns = torch.cat([columns.flatten(), local_columns])
    weights = torch.full((len(all_rows),), 1.0 / max(1, len(all_rows)), device=device)
    return Fold.from_entries(all_rows, all_columns, weights, (views * batch, global_views * batch))


def class_loss(
    student: Tensor, prototypes: Tensor, targets: Tensor, fold: Fold, temperature: float
) -> Tensor:
    """Return the class-token loss ().

    Args:
        student: class-token features of all views (V*B, P).
        prototypes: the student's (K, P).
        targets: teacher probabilities of the global views (G*B, K).
        fold: `view_fold` (stage 1) or `supervised_fold` (stage 2).
        temperature: of the student.
    """
    return folded_cross_entropy(
        student, prototypes, lambda start, stop: targets[start:stop], fold, temperature
    )


def _per_image(student: Tensor, teacher: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of view combinations (C,) for every image, each (C * B,)."""
    images = torch.arange(batch, device=student.device)
    rows = student[:, None] * batch + images
    columns = teacher[:, None] * batch + images
    return rows.flatten(), columns.flatten()
