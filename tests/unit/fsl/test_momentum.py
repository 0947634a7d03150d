"""The momentum teacher."""

from __future__ import annotations

import torch
from torch import nn

from fsl.backbones.resnet12 import ResNet12, ResNet12Config
from fsl.backbones.vit import ViT, ViTConfig
from fsl.images import ImageSpec
from fsl.momentum import ema_update_, make_teacher, matching_parameters


def test_a_teacher_is_a_frozen_copy_without_randomness() -> None:
    student = ViT(ViTConfig(size="micro", drop_path=0.5), ImageSpec(size=16))
    student.extra = nn.Dropout(0.5)
    teacher = make_teacher(student).train()
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(teacher(images), teacher(images))
    assert not torch.equal(student.train()(images), student(images))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert teacher.extra.p == 0.0


def test_a_resnet_drops_nothing_in_a_teacher() -> None:
    student = ResNet12(
        ResNet12Config(widths=(4, 4, 8, 8), drop_rate=0.5, drop_block=2), ImageSpec(size=32)
    )
    teacher = make_teacher(student).train()
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(teacher(images), teacher(images))
    assert not torch.equal(student.train()(images), student(images))


def test_update_leaves_the_student_alone_and_skips_what_the_teacher_lacks() -> None:
    student = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    teacher = nn.ModuleDict({"a": nn.Linear(2, 2)}).requires_grad_(False)
    before = teacher["a"].weight.clone()
    held = student["a"].weight.detach().clone()
    pairs = matching_parameters(teacher, student)
    assert [len(part) for part in pairs] == [2, 2]
    ema_update_(*pairs, 0.75)
    torch.testing.assert_close(teacher["a"].weight, 0.75 * before + 0.25 * held)
    assert torch.equal(student["a"].weight, held)


def test_momentum_one_changes_nothing_and_zero_copies() -> None:
    teacher, student = torch.randn(3), torch.randn(3)
    kept = teacher.clone()
    ema_update_([teacher], [student], 1.0)
    assert torch.equal(teacher, kept)
    ema_update_([teacher], [student], 0.0)
    assert torch.equal(teacher, student)
    ema_update_([], [], 0.5)
