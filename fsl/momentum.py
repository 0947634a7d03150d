"""The momentum (EMA) teacher: a copy without gradient and without randomness."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def make_teacher(student: M) -> M:
    """Return a frozen copy of `student` in which dropout and stochastic depth are off.

    It stays in train mode with the rest of the method; nothing in it is random all the same.
    """
    teacher = copy.deepcopy(student)
    teacher.requires_grad_(False)
    for module in teacher.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("drop_prob", "drop_rate"):  # timm's DropPath, ResNet-12's stages
            if hasattr(module, name):
                setattr(module, name, 0.0)
    return teacher


def matching_parameters(
    teacher: nn.Module, student: nn.Module
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters both have, by name, in one order: (teacher's, student's).

    What only the student has (a mask embedding, say) is left out.
    """
    own = dict(student.named_parameters())
    pairs = [(value, own[name]) for name, value in teacher.named_parameters() if name in own]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@torch.no_grad()
def ema_update_(teacher: Sequence[Tensor], student: Sequence[Tensor], momentum: float) -> None:
    """In place: teacher = momentum * teacher + (1 - momentum) * student, all tensors at once."""
    if teacher:
        torch._foreach_lerp_(
            cast("list[Tensor]", teacher), cast("list[Tensor]", student), 1.0 - momentum
        )
