"""Schedules as the optimizer sees them, and the kinds of clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fsl.config import build
from fsl.errors import ConfigError
from pipelines.optim import Schedules, build_optimizer, clip_gradients_, prepare_gradients_
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
