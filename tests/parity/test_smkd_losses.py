"""Losses, their gradients and the centres, against the published implementation's numbers.

The archives hold raw logits. With the identity as prototypes, features are logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import fsl.losses.patch_distillation as patches
import fsl.losses.self_distillation as classes
import fsl.losses.soft_cross_entropy as fused
from fsl.collapse import update_center
from fsl.losses.patch_distillation import (
    PatchPlan,
    masked_plan,
    match_patches,
    matched_plan,
    released_plan,
)
from fsl.losses.self_distillation import class_loss, supervised_fold, view_fold
from fsl.losses.soft_cross_entropy import SoftTargets, folded_cross_entropy, teacher_probabilities
from fsl.methods.smkd import SMKDConfig

if TYPE_CHECKING:
    Archive = Any

STUDENT_TEMPERATURE = 0.1
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


class Logits:
    """The tensors of one call, as leaves where a gradient is compared."""

    def __init__(self, archive: Archive, prefix: str, dtype: torch.dtype) -> None:
        self.get = lambda key: archive[prefix + key].to(dtype)
        self.cls = self.get("student_cls").requires_grad_()
        self.local = self.get("student_local_cls").requires_grad_()
        self.patch = self.get("student_patch").requires_grad_()
        self.eye = torch.eye(self.cls.shape[-1], dtype=dtype)
        self.temperature = archive.number(prefix + "temp_cls")
        self.patch_temperature = archive.number(prefix + "temp_patch")

    def probabilities(self, center: Tensor) -> Tensor:
        teacher = self.get("teacher_cls")
        return teacher_probabilities(teacher, self.eye, center, self.temperature)

    def patch_loss(self, plan: PatchPlan, center: Tensor) -> Tensor:
        teacher = self.get("teacher_patch").flatten(0, 1)[plan.teacher_rows]
        return folded_cross_entropy(
            self.patch.flatten(0, 1)[plan.student_rows],
            self.eye,
            SoftTargets(teacher, self.eye, center, self.patch_temperature),
            plan.fold,
            STUDENT_TEMPERATURE,
        )


def close(actual: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=0, atol=atol)


def close_loss(actual: Tensor, expected: float) -> None:
    assert actual.item() == pytest.approx(expected, rel=1e-5)


@DTYPES
@pytest.mark.archive("smkd.stage1_loss")
def test_stage_1_losses_gradients_and_centres_over_two_steps(
    archive: Archive, dtype: torch.dtype
) -> None:
    batch = archive.integer("batch")
    views = 2 + archive.integer("n_local")
    center = patch_center = torch.zeros(archive["step0_student_cls"].shape[-1], dtype=dtype)
    for prefix in ("step0_", "step1_"):
        logits = Logits(archive, prefix, dtype)
        fold = view_fold(batch, 2, views, logits.cls.device)
        student = torch.cat([logits.cls, logits.local])
        loss_cls = class_loss(
            student, logits.eye, logits.probabilities(center), fold, STUDENT_TEMPERATURE
        )
        masks = archive[prefix + "mask"].flatten(0, 1)
        loss_mim = logits.patch_loss(masked_plan(masks, 2, len(logits.eye)), patch_center)
        (loss_cls + loss_mim).backward()

        close_loss(loss_cls, archive.number(prefix + "loss_cls"))
        close_loss(loss_mim, archive.number(prefix + "loss_mim"))
        close(logits.cls.grad, archive[prefix + "grad_student_cls"])
        close(logits.local.grad, archive[prefix + "grad_student_local_cls"])
        close(logits.patch.grad, archive[prefix + "grad_student_patch"])
        momentum = archive.number("center_momentum")
        center = update_center(center, logits.get("teacher_cls").mean(0), momentum)
        patch_mean = logits.get("teacher_patch").flatten(0, 1).mean(0)
        patch_center = update_center(patch_center, patch_mean, momentum)
        close(center, archive[prefix + "center_cls_after"].flatten())
        close(patch_center, archive[prefix + "center_patch_after"].flatten())


@DTYPES
@pytest.mark.archive("smkd.stage2_loss")
def test_stage_2_class_loss_gradients_and_centres(archive: Archive, dtype: torch.dtype) -> None:
    logits = Logits(archive, "", dtype)
    center = logits.get("center_cls_before").flatten()
    fold = supervised_fold(archive["labels"], 2, 2 + archive.integer("n_local"))
    student = torch.cat([logits.cls, logits.local])
    loss = class_loss(student, logits.eye, logits.probabilities(center), fold, STUDENT_TEMPERATURE)
    loss.backward()
    close_loss(loss, archive.number("loss_cls"))
    close(logits.cls.grad, archive["grad_student_cls"])
    close(logits.local.grad, archive["grad_student_local_cls"])
    momentum = archive.number("center_momentum")
    after = update_center(center, logits.get("teacher_cls").mean(0), momentum)
    close(after, archive["center_cls_after"].flatten())
    before = logits.get("center_patch_before").flatten()
    after = update_center(before, logits.get("teacher_patch").flatten(0, 1).mean(0), momentum)
    close(after, archive["center_patch_after"].flatten())


@DTYPES
@pytest.mark.parametrize("omega", ["", "attn_"], ids=["uniform", "attention"])
@pytest.mark.parametrize("matching", ["paper", "released"])
@pytest.mark.archive("smkd.stage2_loss")
def test_stage_2_patch_loss_and_gradient(
    archive: Archive, matching: str, omega: str, dtype: torch.dtype
) -> None:
    logits = Logits(archive, "", dtype)
    plan = {"paper": matched_plan, "released": released_plan}[matching](
        logits.get("student_backbone")[:, 1:],
        logits.get("teacher_backbone")[:, 1:],
        archive["labels"],
        len(logits.eye),
        archive["teacher_attn_cls"] if omega else None,
    )
    loss = logits.patch_loss(plan, logits.get("center_patch_before").flatten())
    loss.backward()
    key = f"{matching}_{omega}"
    close_loss(loss, archive.number(key + "loss_patch"))
    close(logits.patch.grad, archive[key + "grad_student_patch"])


@pytest.mark.parametrize("views", [(0, 1), (1, 0)], ids=["s0t1", "s1t0"])
@pytest.mark.archive("smkd.stage2_loss")
def test_stage_2_matches_are_the_same_patches(archive: Archive, views: tuple[int, int]) -> None:
    batch = archive.integer("batch")
    s, t = views
    found = match_patches(
        archive["student_backbone"][s * batch : (s + 1) * batch, 1:],
        archive["teacher_backbone"][t * batch : (t + 1) * batch, 1:],
        archive[f"paper_pairs_s{s}t{t}"].long(),
    )
    assert torch.equal(found, archive[f"paper_match_s{s}t{t}"].long())


def test_published_student_temperature_is_the_default() -> None:
    assert SMKDConfig().student_temperature == STUDENT_TEMPERATURE
    assert SMKDConfig().center_momentum == 0.9


class TestMutations:
    """The comparisons above fail when a constant or a formula is changed."""

    @pytest.mark.archive("smkd.stage1_loss")
    def test_student_temperature(self, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(globals(), "STUDENT_TEMPERATURE", 0.101)
        self.fails(archive)

    @pytest.mark.archive("smkd.stage1_loss")
    def test_center_momentum(self, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        right = update_center

        def wrong(center: Tensor, mean: Tensor, kept: float) -> Tensor:
            return right(center, mean, kept + 0.01)

        monkeypatch.setitem(globals(), "update_center", wrong)
        self.fails(archive)

    @pytest.mark.archive("smkd.stage1_loss")
    def test_center_after_the_division(
        self, archive: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(features: Tensor, weight: Tensor, center: Tensor, temperature: float) -> Tensor:
            return (features @ weight.mT / temperature - center).softmax(-1)

        monkeypatch.setattr(fused, "teacher_probabilities", wrong)
        self.fails(archive)

    @staticmethod
    def fails(archive: Archive) -> None:
        with pytest.raises(AssertionError):
            test_stage_1_losses_gradients_and_centres_over_two_steps(archive, torch.float32)

    @pytest.mark.parametrize("views", [((0, 0), (1, 1)), ((0, 1), (0, 1))])
    @pytest.mark.archive("smkd.stage2_loss")
    def test_views_that_are_compared(
        self, archive: Archive, views: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patches, "VIEW_PAIRS", views)
        for matching in ("paper", "released"):
            with pytest.raises(AssertionError):
                test_stage_2_patch_loss_and_gradient(archive, matching, "", torch.float32)

    @pytest.mark.archive("smkd.stage2_loss")
    def test_an_image_as_its_own_classmate(
        self, archive: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(labels: Tensor) -> Tensor:
            return (labels[:, None] == labels[None, :]).nonzero()

        monkeypatch.setattr(patches, "same_class_pairs", wrong)
        monkeypatch.setattr(classes, "same_class_pairs", wrong)
        with pytest.raises(AssertionError):
            test_stage_2_patch_loss_and_gradient(archive, "paper", "", torch.float32)
        with pytest.raises(AssertionError):
            test_stage_2_class_loss_gradients_and_centres(archive, torch.float32)
