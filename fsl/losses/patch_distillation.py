"""Patch-token distillation: masked patches (stage 1) and matched patches of one class (stage 2).

Both only choose rows and weights, so that heads and prototypes run on those rows alone; the loss
itself is `folded_cross_entropy` of a plan's fold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.losses.self_distillation import same_class_pairs
from fsl.losses.soft_cross_entropy import Block, Fold, chunk_rows

SIMILARITY_ELEMENTS = 1 << 22
"""Similarities held at once while matching."""
VIEW_PAIRS = ((0, 1), (1, 0))
"""(student view s, teacher view t) that are compared, s != t; not a loop over images or pairs."""
BLOCK_CHUNKS = 2
"""Teacher probabilities of one block, in chunks; a single larger class makes a larger block."""


class PatchPlan(NamedTuple):
    """Which patches take part, as rows of (views * B * N), and with which weights."""

    student_rows: Tensor  # (R,) int64
    teacher_rows: Tensor  # (C,) int64
    fold: Fold  # R rows, C columns


def masked_plan(masks: Tensor, global_views: int, prototypes: int) -> PatchPlan:
    """Stage 1, eq. (2): masked patches learn from the teacher's same patch in the same view.

    Each image averages over its masked patches; images without a mask count as 0 in the batch mean.

    Args:
        masks: (G*B, h, w) bool.
        global_views: G.
        prototypes: K, for the size of chunks.
    """
    flat = masks.flatten(1)  # (G*B, N)
    per_image = flat.sum(1).clamp_min(1)  # (G*B,)
    batch = len(flat) // global_views
    image, patch = flat.nonzero(as_tuple=True)
    weights = 1.0 / (per_image[image].float() * (global_views * batch))
    rows = image * flat.shape[1] + patch
    return PatchPlan(rows, rows, Fold.one_to_one(weights, prototypes))


def match_patches(student: Tensor, teacher: Tensor, pairs: Tensor) -> Tensor:
    """Eq. (4): for each pair (i, j) and teacher patch k, the most similar student patch.

    Cosine similarity in float32 from the backbone's features; of equal ones the first wins.

    Args:
        student: (B, N, D) student features of one view.
        teacher: (B, N, D) teacher features of the other view.
        pairs: (P, 2) image i of the student, image j of the teacher.

    Returns:
        (P, N) int64.
    """
    with torch.no_grad(), torch.autocast(student.device.type, enabled=False):
        student = F.normalize(_at_least_float(student), dim=-1)
        teacher = F.normalize(_at_least_float(teacher), dim=-1)
        step = max(1, SIMILARITY_ELEMENTS // student.shape[1] ** 2)
        found = [
            (teacher[part[:, 1]] @ student[part[:, 0]].mT).argmax(-1)
            for part in torch.split(pairs, step)
        ]
    return torch.cat(found) if found else pairs.new_zeros(0, student.shape[1])


def matched_plan(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    prototypes: int,
    attention: Tensor | None = None,
) -> PatchPlan:
    """Stage 2, eqs. (4) and (5): a student patch learns from the classmates' patches it matches.

    Student view s meets teacher view t != s; the partner is another image of the class. Every
    image with a classmate has equal weight, whatever its class's size.

    Args:
        student: (2B, N, D) features after the final norm, from the masked forward.
        teacher: (2B, N, D).
        labels: (B,).
        prototypes: K, for the size of chunks.
        attention: (2B, heads, N) of the teacher's class token; None weighs patches uniformly.
    """
    batch, patches = len(labels), student.shape[1]
    groups = _Groups.of(labels)
    pairs = same_class_pairs(labels)
    omega = patch_weights(attention, 2 * batch, patches, student.device).view(2, batch, patches)
    share = 1.0 / (2 * max(1, groups.members) * groups.classmates[pairs[:, 0]].clamp_min(1))
    rows, columns, weights = [], [], []
    each_patch = torch.arange(patches, device=student.device)
    for s, t in VIEW_PAIRS:
        views = student[s * batch : (s + 1) * batch], teacher[t * batch : (t + 1) * batch]
        match = match_patches(*views, pairs)  # (P, N)
        rows.append(groups.key(s, pairs[:, :1], match))
        columns.append(groups.key(s, pairs[:, 1:], each_patch).expand_as(match))
        weights.append(share[:, None] * omega[t, pairs[:, 1]])
    # Direction s holds the teacher's other view.
    return _plan(
        groups,
        rows,
        columns,
        weights,
        prototypes=prototypes,
        patches=patches,
        teacher_view=lambda s: 1 - s,
    )


def released_plan(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    prototypes: int,
    attention: Tensor | None = None,
) -> PatchPlan:
    """What the published code computes instead, for parity with its checkpoints.

    Its similarity is the product of two channel sums, so the match is one of two patches; only
    the first image of a class (batch order) learns; probabilities come from the student's view;
    the match of one pair is used with another's probabilities. With attention the image itself
    and classes of one image take part too. Arguments as in `matched_plan`.
    """
    batch, patches = len(labels), student.shape[1]
    groups = _Groups.of(labels, singles=attention is not None)
    pairs = same_class_pairs(labels)
    if attention is not None:
        own = torch.arange(batch, device=labels.device)[:, None].expand(-1, 2)
        pairs = torch.cat([pairs, own])
        share = labels.new_full((len(pairs),), 1, dtype=torch.float32) / (2 * batch)
    else:
        share = 1.0 / (2 * max(1, groups.members) * groups.classmates[pairs[:, 0]].clamp_min(1))
    omega = patch_weights(attention, 2 * batch, patches, student.device).view(2, batch, patches)
    student_sums = _channel_sums(student).view(2, batch, patches)
    teacher_sums = _channel_sums(teacher).view(2, batch, patches)
    anchor, other = pairs.unbind(1)
    each_patch = torch.arange(patches, device=student.device)
    rows, columns, weights = [], [], []
    for s, t in VIEW_PAIRS:
        highest, lowest = student_sums[s].argmax(-1), student_sums[s].argmin(-1)  # (B,)
        positive = teacher_sums[t, anchor] > 0  # (P, N)
        match = torch.where(positive, highest[other, None], lowest[other, None])
        rows.append(groups.key(s, groups.first[anchor, None], match))
        columns.append(groups.key(s, other[:, None], each_patch).expand_as(match))
        weights.append(share[:, None] * omega[t, other])
    return _plan(
        groups,
        rows,
        columns,
        weights,
        prototypes=prototypes,
        patches=patches,
        teacher_view=lambda s: s,
    )


def patch_weights(
    attention: Tensor | None, images: int, patches: int, device: torch.device
) -> Tensor:
    """Return omega (images, N), rows summing to one: uniform, or the mean attention over heads."""
    if attention is None:
        return torch.full((images, patches), 1.0 / patches, device=device)
    mean = attention.float().mean(1)
    return mean / mean.sum(-1, keepdim=True).clamp_min(1e-12)


class _Groups(NamedTuple):
    """Images that take part, ordered by class, so that a class is one run of rows."""

    order: Tensor  # (A,) image numbers
    position: Tensor  # (B,) place of each image in `order`; -1 if it takes no part
    classmates: Tensor  # (B,) other images of its class
    first: Tensor  # (B,) first image of its class in batch order
    ends: list[int]  # end of each class within `order`

    @property
    def members(self) -> int:
        return len(self.order)

    @staticmethod
    def of(labels: Tensor, singles: bool = False) -> _Groups:
        _, number, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        taking_part = counts if singles else counts * (counts > 1)
        order = number.argsort(stable=True)
        order = order[taking_part[number[order]] > 0]
        position = torch.full_like(labels, -1)
        position[order] = torch.arange(len(order), device=labels.device)
        first = torch.full_like(counts, len(labels))
        first.scatter_reduce_(0, number, torch.arange(len(labels), device=labels.device), "amin")
        ends = taking_part[taking_part > 0].cumsum(0).tolist()
        return _Groups(order, position, (counts - 1)[number], first[number], ends)

    def key(self, direction: int, images: Tensor, patches: Tensor) -> Tensor:
        """Number of a patch among (2, A, N); rows of both networks are counted this way."""
        self_count, grid = self.members, patches.shape[-1]
        return (direction * self_count + self.position[images]) * grid + patches


def _plan(
    groups: _Groups,
    rows: list[Tensor],
    columns: list[Tensor],
    weights: list[Tensor],
    *,
    prototypes: int,
    patches: int,
    teacher_view: Callable[[int], int],
) -> PatchPlan:
    """Number the used student patches densely and cut the work at class borders."""
    all_rows = torch.cat([part.flatten() for part in rows])
    all_columns = torch.cat([part.flatten() for part in columns])
    used, dense = torch.unique(all_rows, return_inverse=True)  # sorted
    count = 2 * groups.members * patches
    borders = _borders(groups, patches, prototypes)
    student_borders = torch.searchsorted(used, torch.tensor(borders, device=used.device)).tolist()
    blocks = [
        Block(a, b, c, d)
        for a, b, c, d in zip(
            student_borders[:-1], student_borders[1:], borders[:-1], borders[1:], strict=True
        )
        if b > a
    ]
    flat = torch.cat([part.flatten() for part in weights])
    fold = Fold.from_entries(dense, all_columns, flat, (len(used), count), blocks)
    every = torch.arange(count, device=used.device)
    return PatchPlan(
        _image_rows(groups, used, patches, lambda s: s),
        _image_rows(groups, every, patches, teacher_view),
        fold,
    )


def _borders(groups: _Groups, patches: int, prototypes: int) -> list[int]:
    """Patch numbers at which blocks begin and end: at class ends, as few as the budget allows."""
    budget = BLOCK_CHUNKS * chunk_rows(prototypes)
    borders = [0]
    for direction in (0, 1):
        base = direction * groups.members
        previous = borders[-1]
        for end in groups.ends:
            here = (base + end) * patches
            if here - borders[-1] > budget and previous > borders[-1]:
                borders.append(previous)
            previous = here
        if previous > borders[-1]:
            borders.append(previous)
    return borders


def _image_rows(
    groups: _Groups, keys: Tensor, patches: int, view_of: Callable[[int], int]
) -> Tensor:
    """Patch numbers among (2, A, N) -> rows of (2 * B * N)."""
    image, patch = keys // patches, keys % patches
    direction, position = image // max(1, groups.members), image % max(1, groups.members)
    view = torch.where(direction == 0, view_of(0), view_of(1))
    batch = len(groups.position)
    return (view * batch + groups.order[position]) * patches + patch


def _channel_sums(features: Tensor) -> Tensor:
    """(n, N, D) -> (n, N): sum over channels of the normalised features, no gradient."""
    return F.normalize(_at_least_float(features.detach()), dim=-1).sum(-1)


def _at_least_float(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()
