"""Schedules as the optimizer sees them, and the kinds of clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fsl.config import build
from fsl.errors import CheckpointError, ConfigError
from pipelines.optim import (
    Schedules,
    build_optimizer,
    clip_gradients_,
    optimizer_state,
    prepare_gradients_,
    restore_optimizer,
)
from pipelines.optim_config import ClipConfig, OptimConfig, StaircaseConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.teacher = nn.Linear(3, 2).requires_grad_(False)


def test_biases_do_not_decay_and_the_teacher_is_not_trained() -> None:
    net = Net()
    optimizer = build_optimizer(net, OptimConfig())
    Schedules(OptimConfig(weight_decay=0.1), 100, 10).apply(optimizer, 0)
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decays == pytest.approx({id(net.layer.weight): 0.1, id(net.layer.bias): 0.0})


def test_nothing_to_train_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="method: Linear has nothing to train"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimConfig())


def test_rate_and_decay_follow_the_published_schedule() -> None:
    config = OptimConfig(
        epochs=10, lr=1.0, min_lr=0.1, warmup_epochs=2, weight_decay=0.04, final_weight_decay=0.4
    )
    schedules = Schedules(config, 50, 5)
    rates = [schedules.lr(step) for step in range(50)]
    assert rates[0] == 0
    assert rates[9] == rates[10] == 1.0  # the peak appears twice
    assert 0.1 < rates[-1] < 0.11  # the end is never reached
    assert schedules.weight_decay(0) == pytest.approx(0.04)
    assert schedules.weight_decay(25) == pytest.approx(0.22)


def test_a_constant_decay_stays() -> None:
    config = OptimConfig(weight_decay=0.05, final_weight_decay=None)
    assert Schedules(config, 50, 5).weight_decay(49) == pytest.approx(0.05)


@pytest.mark.parametrize(("kind", "norms"), [("per_parameter", (1, 0.5)), ("none", (4, 0.5))])
def test_clipping_limits_what_it_says(kind: str, norms: tuple[float, float]) -> None:
    tensors = [torch.zeros(4, requires_grad=True) for _ in range(3)]
    tensors[0].grad, tensors[1].grad = torch.full((4,), 2.0), torch.full((4,), 0.25)
    total = clip_gradients_(tensors, ClipConfig.model_validate({"kind": kind, "value": 1.0}))
    assert total.item() == pytest.approx((16 + 0.25) ** 0.5)
    assert [float(t.grad.norm()) for t in tensors[:2] if t.grad is not None] == pytest.approx(norms)


def test_the_global_norm_scales_all_gradients_alike() -> None:
    tensors = [torch.zeros(4, requires_grad=True) for _ in range(2)]
    tensors[0].grad, tensors[1].grad = torch.full((4,), 2.0), torch.full((4,), 0.25)
    clip_gradients_(tensors, ClipConfig(kind="global_norm", value=1.0))
    first, second = tensors[0].grad, tensors[1].grad
    assert torch.cat([first, second]).norm().item() == pytest.approx(1.0)
    torch.testing.assert_close(first, 8 * second)


def test_a_staircase_falls_at_its_steps_and_an_unscaled_decay_follows_the_rate() -> None:
    config = OptimConfig(
        lr=1e-3, min_lr=0, warmup_epochs=0, staircase=StaircaseConfig(every=2, factor=0.1),
        weight_decay=1e-6, final_weight_decay=None, decay_times_lr=False, decay_all=True,
    )  # fmt: skip
    net = Net()
    optimizer = build_optimizer(net, config)
    schedules = Schedules(config, 100, 10)
    (group,) = optimizer.param_groups  # biases decay as well
    for step, rate in enumerate((1e-3, 1e-3, 1e-4, 1e-4, 1e-5)):
        schedules.apply(optimizer, step)
        assert group["lr"] == pytest.approx(rate)
        assert group["lr"] * group["weight_decay"] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_decay": 1e-6}, r"final_weight_decay: 0\.4 is,.* lost per step.*_decay: null"),
        (
            {"final_weight_decay": None},
            r"weight_decay: 0\.04 is,.* lost per step.*weight_decay: 1e-6",
        ),
    ],
)
def test_a_decay_whatever_the_rate_must_leave_the_weights(
    settings: dict[str, object], message: str
) -> None:
    unscaled = {"decay_times_lr": False, "warmup_epochs": 0}
    with pytest.raises(ConfigError, match=message):
        build(OptimConfig, {**unscaled, **settings})
    build(OptimConfig, {**unscaled, "weight_decay": 1e-6, "final_weight_decay": 0.01})


def test_the_penalty_enters_before_the_gradients_are_normalised() -> None:
    net = Net()
    config = OptimConfig(l2=0.5, clip=ClipConfig(kind="normalise"))
    optimizer = build_optimizer(net, config)
    for parameter in net.layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    norm = prepare_gradients_(net, optimizer, config)
    weight = net.layer.weight.detach()
    torch.testing.assert_close(norm, weight.norm())  # 2 * 0.5 * w; the bias is not penalised
    assert net.layer.weight.grad is not None
    torch.testing.assert_close(net.layer.weight.grad, weight / weight.norm())


def test_a_staircase_with_a_warm_up_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no warm-up"):
        build(OptimConfig, {"staircase": {"every": 10}})


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_descends_as_written(nesterov: bool) -> None:
    """v = .9 v + (g + decay p), p -= rate * v, or with Nesterov rate * (g + decay p + .9 v)."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    config = OptimConfig(
        optimizer="sgd", nesterov=nesterov, lr=0.5, min_lr=0.5, warmup_epochs=0,
        weight_decay=0.1, final_weight_decay=None, clip=ClipConfig(kind="none"),
    )  # fmt: skip
    optimizer, schedules = build_optimizer(net, config), Schedules(config, 3, 1)
    weight, velocity = 2.0, 0.0
    for step in range(3):
        schedules.apply(optimizer, step)
        net.weight.grad = torch.full((1, 1), 0.3)
        optimizer.step()
        gradient = 0.3 + 0.1 * weight
        velocity = 0.9 * velocity + gradient
        weight -= 0.5 * (gradient + 0.9 * velocity if nesterov else velocity)
        assert net.weight.item() == pytest.approx(weight)


def test_lars_steps_as_long_as_the_weights_but_plainly_on_biases() -> None:
    net = nn.Linear(2, 2)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    config = OptimConfig(
        optimizer="lars", momentum=0, lr=2.0, min_lr=2.0, warmup_epochs=0,
        weight_decay=1e-6, final_weight_decay=None,
    )  # fmt: skip
    optimizer = build_optimizer(net, config)
    Schedules(config, 1, 1).apply(optimizer, 0)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    optimizer.step()
    moved = [(p - b).norm().item() for p, b in zip(net.parameters(), before, strict=True)]
    assert moved[0] == pytest.approx(2.0 * 0.001 * before[0].norm().item(), rel=1e-4)
    assert moved[1] == pytest.approx(2.0 * 7.0 * 2**0.5)  # no trust ratio


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"optimizer": "sgd", "betas": [0.9, 0.99]}, "betas"),
        ({"optimizer": "lars", "epsilon": 1e-6}, "epsilon"),
        ({"optimizer": "sgd", "decay_times_lr": False, "warmup_epochs": 0}, "decay_times_lr"),
        ({"momentum": 0.8}, "momentum"),
        ({"nesterov": True}, "nesterov"),
        ({"optimizer": "sgd", "momentum": 0, "nesterov": True}, "nesterov"),
        ({"optimizer": "adam"}, "optimizer"),
    ],
)
def test_settings_of_another_optimizer_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build(OptimConfig, settings)


def test_moments_of_another_optimizer_are_refused() -> None:
    net = nn.Linear(2, 2)
    adam = build_optimizer(net, OptimConfig())
    net(torch.ones(1, 2)).sum().backward()
    adam.step()
    saved = optimizer_state(adam, net)
    sgd = build_optimizer(net, OptimConfig(optimizer="sgd"))
    with pytest.raises(CheckpointError, match=r"exp_avg.*init\.restore to weights"):
        restore_optimizer(sgd, net, saved, "earlier.pt")
