"""Both stages as methods: the shared contract, then what is theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fsl.augment import MultiCropConfig
from fsl.backbones import BackboneConfig, build_backbone
from fsl.backbones.conv4 import Conv4Config
from fsl.backbones.resnet12 import ResNet12Config
from fsl.config import build
from fsl.errors import ConfigError
from fsl.heads import HeadConfig
from fsl.images import ImageSpec
from fsl.methods.distillation import Distillation
from fsl.methods.masked_distillation import MaskedDistillation, MaskedDistillationConfig
from fsl.methods.smkd import SMKD, SMKDConfig
from fsl.testing import TOY_IMAGES, MethodContract, tiny_backbone, toy_multiview_batch
from fsl.types import MultiViewBatch, Progress

SMALL: dict[str, Any] = {
    "head": HeadConfig(prototypes=16, hidden=32, bottleneck=8),
    "crops": MultiCropConfig(
        global_size=TOY_IMAGES.size, local_size=TOY_IMAGES.size // 2, local_views=2
    ),
    "teacher_temperature_epochs": 0,
}
START = Progress(0, 100, 10)


# A moving teacher and centre move the target, and the loss with it: the contract's "training
# lowers the loss" is about a teacher that stands still.
STILL: dict[str, Any] = {"momentum": 1.0, "center_momentum": 0.999}


class TestStage1(MethodContract):
    config = MaskedDistillationConfig(**SMALL, **STILL)


class TestStage2(MethodContract):
    config = SMKDConfig(**SMALL, **STILL)


class TestStage2Released(MethodContract):
    config = SMKDConfig(**SMALL, **STILL, matching="released", omega="attention")


def stage(**settings: Any) -> Distillation:
    torch.manual_seed(0)
    if settings.pop("stage", 2) == 1:
        return MaskedDistillation(
            MaskedDistillationConfig(**SMALL | settings), tiny_backbone(TOY_IMAGES)
        )
    return SMKD(SMKDConfig(**SMALL | settings), tiny_backbone(TOY_IMAGES))


def batch() -> MultiViewBatch:
    return toy_multiview_batch(images=TOY_IMAGES, grid=tiny_backbone().grid(TOY_IMAGES.size))


def test_stage_2_continues_from_a_stage_1_state() -> None:
    assert list(stage(stage=1).state_dict()) == list(stage(stage=2).state_dict())
    stage(stage=2).load_state_dict(stage(stage=1).state_dict())


def test_centres_change_after_the_step_not_in_the_loss() -> None:
    method = stage()
    method.before_step(START)
    method(batch())
    assert not method.center.any()
    method.after_step(START)
    assert method.center.any()
    assert method.patch_center.any()


def test_two_half_batches_move_the_centres_as_one_whole() -> None:
    whole, views = batch(), batch().size
    half = views // 2

    def part(images: slice) -> MultiViewBatch:
        def cut(x: torch.Tensor) -> torch.Tensor:
            return x.view(-1, views, *x.shape[1:])[:, images].flatten(0, 1)

        return MultiViewBatch(
            cut(whole.global_views), cut(whole.local_views), cut(whole.masks),
            whole.labels[images], len(whole.labels[images]),
        )  # fmt: skip

    centers = []
    for parts in ([whole], [part(slice(0, half)), part(slice(half, None))]):
        method = stage()
        method.before_step(START)
        for one in parts:
            method(one)
        method.after_step(START)
        centers.append(torch.cat([method.center, method.patch_center]))
    torch.testing.assert_close(centers[0], centers[1], rtol=1e-5, atol=1e-7)


def test_evaluating_the_loss_leaves_the_centres_alone() -> None:
    method = stage().eval()
    method.before_step(START)
    with torch.no_grad():
        method(batch())
    method.after_step(START)
    assert not method.center.any()


@pytest.mark.parametrize("number", [1, 2])
def test_the_order_of_images_does_not_change_the_loss(number: int) -> None:
    method, one = stage(stage=number), batch()
    order = torch.randperm(one.size)

    def shuffled(x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, one.size, *x.shape[1:])[:, order].flatten(0, 1)

    other = MultiViewBatch(
        shuffled(one.global_views), shuffled(one.local_views), shuffled(one.masks),
        one.labels[order], one.size,
    )  # fmt: skip
    torch.testing.assert_close(method(other).loss, method(one).loss, rtol=1e-5, atol=1e-6)


def test_prototypes_are_frozen_in_the_first_epoch_only() -> None:
    method = stage(freeze_last_layer=1)
    assert method.frozen_parameters(Progress(9, 100, 10)) == method.head.last_layers()
    assert not method.frozen_parameters(Progress(10, 100, 10))


def test_temperatures_and_momentum_follow_their_schedules() -> None:
    method = stage(teacher_temperature_epochs=4, momentum=0.9)
    method.before_step(Progress(0, 100, 10))
    assert (method.temperature, method.momentum) == (0.04, 0.9)
    method.before_step(Progress(99, 100, 10))
    assert method.temperature == 0.07
    assert 0.999 < method.momentum < 1.0


def test_every_parameter_of_the_student_has_a_gradient_without_classmates() -> None:
    for settings in ({}, {"lambda_patch": 0.0, "head": HeadConfig(prototypes=16, hidden=32,
                          bottleneck=8, patch_prototypes=8)}):  # fmt: skip
        method, one = stage(**settings), batch()
        labels = torch.arange(one.size)
        lonely = MultiViewBatch(one.global_views, one.local_views, one.masks, labels, one.size)
        output = method(lonely)
        output.loss.backward()
        assert torch.isfinite(output.loss)
        for name, parameter in method.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        if "lambda_patch" not in settings:
            assert output.metrics["loss_patch"].item() == 0.0


def test_features_are_two_unit_vectors_of_the_teacher() -> None:
    method = stage().eval()
    images = torch.randn(2, 3, TOY_IMAGES.channels, TOY_IMAGES.size, TOY_IMAGES.size)
    features = method.embed(images)
    width = method.backbone.features
    assert features.shape == (2, 3, 2 * width)
    for part in features.split(width, dim=-1):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(2, 3))
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.zero_()
    assert torch.equal(method.embed(images), features)


def test_a_backbone_without_patch_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="patch tokens"):
        SMKD(SMKDConfig(), nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (Conv4Config(), "needs a backbone with patch tokens"),
        (ResNet12Config(), "hides patches, which ResNet12 cannot"),
    ],
)
def test_backbones_that_cannot_hide_patches_are_refused_at_once(
    backbone: BackboneConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SMKD(SMKDConfig(), build_backbone(backbone, ImageSpec(size=32)))


def test_the_centre_is_float32_under_autocast() -> None:
    method = stage()
    method.before_step(START)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        method(batch())
    assert method._center_sum is not None
    assert method._center_sum.dtype == torch.float32


def test_a_misspelt_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lambda_patch'"):
        build(SMKDConfig, {"name": "smkd", "lamda_patch": 1.0})


def test_attention_weights_need_a_backbone_with_attention() -> None:
    backbone = build_backbone(Conv4Config(width=8, pool="mean"), ImageSpec(size=32))
    with pytest.raises(ConfigError, match="Conv4 has none; use omega: uniform"):
        SMKD(SMKDConfig(omega="attention"), backbone)
