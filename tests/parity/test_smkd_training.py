"""Three optimizer steps of the whole loop: losses, centres, gradients and end weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from fsl.augment import MultiCropConfig
from fsl.backbones.vit import ViT, ViTConfig
from fsl.heads import HeadConfig
from fsl.images import ImageSpec
from fsl.methods.distillation import Distillation
from fsl.methods.masked_distillation import MaskedDistillation, MaskedDistillationConfig
from fsl.methods.smkd import SMKD, SMKDConfig
from fsl.optimization import clip_per_parameter_, parameter_groups
from fsl.schedules import CosineSchedule
from fsl.types import MultiViewBatch, Progress

if TYPE_CHECKING:
    Archive = Any


def our_name(name: str) -> str:
    return name.replace("last_layer.weight_g", "class_layer.gain").replace(
        "last_layer.weight_v", "class_layer.direction"
    )


def build(archive: Archive) -> Distillation:
    """The method at the archive's size, with its weights."""
    images = ImageSpec(size=archive.integer("img"))
    backbone = ViT(
        ViTConfig(
            width=archive.integer("dim"),
            depth=archive.integer("depth"),
            heads=archive.integer("heads"),
            patch=archive.integer("patch"),
            drop_path=0.0,
        ),
        images,
    )
    shared: dict[str, Any] = {
        "head": HeadConfig(
            prototypes=archive.integer("K"),
            hidden=archive.integer("hidden"),
            bottleneck=archive.integer("bottleneck"),
        ),
        "crops": MultiCropConfig(
            global_size=archive.integer("img"),
            local_size=archive.integer("local"),
            local_views=archive.integer("n_local"),
        ),
        "momentum": archive.number("momentum"),
        "teacher_temperature_epochs": archive.integer("warmup_temp_epochs"),
        "freeze_last_layer": archive.integer("freeze_last_layer"),
        "lambda_mim": archive.number("lambda_mim"),
    }
    method: Distillation
    if archive.integer("stage") == 1:
        method = MaskedDistillation(MaskedDistillationConfig(**shared), backbone)
    else:
        patch = archive.number("lambda_patch")
        method = SMKD(SMKDConfig(lambda_patch=patch, **shared), backbone)
    load(method, archive, "student0/", "")
    load(method, archive, "teacher0/", "teacher_")
    return method


def weights_of(archive: Archive, prefix: str) -> dict[str, Tensor]:
    return {our_name(name): value for name, value in archive.under(prefix).items()}


def load(method: Distillation, archive: Archive, prefix: str, ours: str) -> None:
    weights = {ours + name: value for name, value in weights_of(archive, prefix).items()}
    result = method.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys


def batch_of(archive: Archive, step: int) -> MultiViewBatch:
    key = f"in{step}/"
    size = archive.integer("batch")
    labels = archive["labels"] if "labels" in archive else torch.zeros(size, dtype=torch.int64)
    return MultiViewBatch(
        global_views=archive[key + "global"].flatten(0, 1),
        local_views=archive[key + "local"].flatten(0, 1),
        masks=archive[key + "mask"].flatten(0, 1),
        labels=labels,
        size=size,
    )


class Replay:
    """The loop as the archive ran it: schedules indexed by global step, clipping per tensor."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.method = build(archive)
        steps = archive.integer("niter")
        total = archive.integer("epochs") * steps
        self.first = archive.integer("epoch") * steps
        self.progress = lambda step: Progress(self.first + step, total, steps)
        warmup = archive.integer("warmup_epochs") * steps
        self.lr = CosineSchedule(archive.number("base_lr"), archive.number("min_lr"), total, warmup)
        self.decay = CosineSchedule(archive.number("wd"), archive.number("wd_end"), total)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.method, 0.0), lr=0.0)

    def step(self, number: int, check: Callable[[int, dict[str, float]], None]) -> None:
        progress, method = self.progress(number), self.method
        rates = {"lr": self.lr(progress.step), "wd": self.decay(progress.step)}
        for group in self.optimizer.param_groups:
            group["lr"] = rates["lr"]
            group["weight_decay"] = rates["wd"] if group["decayed"] else 0.0
        method.before_step(progress)
        output = method(batch_of(self.archive, number))
        self.optimizer.zero_grad()
        output.loss.backward()
        metrics = {name: value.item() for name, value in output.metrics.items()}
        check(number, {"loss": output.loss.item(), "m": method.momentum, **rates, **metrics})
        clip_per_parameter_(method.parameters(), self.archive.number("clip"))
        for parameter in method.frozen_parameters(progress):
            parameter.grad = None
        self.optimizer.step()
        method.after_step(progress)


def without_key_bias(name: str, value: Tensor) -> Tensor:
    """The key third of a qkv bias has no gradient in exact arithmetic: leave it out."""
    if not name.endswith("qkv.bias"):
        return value
    query, _, values = value.chunk(3)
    return torch.cat([query, values])


@pytest.mark.archive("smkd.training_stage1", "smkd.training_stage2")
def test_three_training_steps(archive: Archive) -> None:
    replay = Replay(archive)
    method = replay.method

    def check(step: int, found: dict[str, float]) -> None:
        key = f"out{step}/"
        for name, ours in (("loss", "loss"), ("cls", "loss_cls"), ("mim", "loss_mim"),
                           ("patch", "loss_patch")):  # fmt: skip
            weight = {"patch": archive.number("lambda_patch")}.get(name, 1.0)
            expected = archive.number(key + name)
            assert weight * found.get(ours, 0.0) == pytest.approx(expected, rel=2e-4)
        for name in ("lr", "wd", "m"):
            assert found[name] == pytest.approx(archive.number(key + name), abs=1e-12)
        named = dict(method.named_parameters())
        for name, norm in archive.under(key + "gradnorm/").items():
            gradient = named[our_name(name)].grad
            assert gradient is not None, name
            actual = gradient.norm().item()
            assert actual == pytest.approx(norm.item(), rel=2e-3, abs=1e-5), name

    for step in range(3):
        replay.step(step, check)
        close(method.center, archive[f"out{step}/center_cls"].flatten(), 1e-5)
        close(method.patch_center, archive[f"out{step}/center_patch"].flatten(), 1e-5)
    state = method.state_dict()
    for prefix, ours in (("student_end/", ""), ("teacher_end/", "teacher_")):
        for name, expected in weights_of(archive, prefix).items():
            actual = without_key_bias(name, state[ours + name])
            close(actual, without_key_bias(name, expected), 2e-4, name)


def close(actual: Tensor, expected: Tensor, atol: float, name: str = "") -> None:
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=atol, msg=lambda text: f"{name}: {text}"
    )
