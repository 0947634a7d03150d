"""Parameter groups, and changes of gradients in place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fsl.errors import ConfigError
from fsl.heads import HeadConfig, ProjectionHead
from fsl.optimization import (
    add_l2_gradients_,
    clip_per_parameter_,
    clip_value_then_norm_,
    normalise_gradients_,
    outer_epsilon,
    parameter_groups,
    unscaled_decay,
)


def with_gradients(*gradients: list[float] | None) -> list[Tensor]:
    """Parameters of ones with these gradients."""
    parameters = []
    for gradient in gradients:
        parameter = torch.ones(len(gradient or [0.0]), requires_grad=True)
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        parameters.append(parameter)
    return parameters


def test_matrices_and_gains_decay_biases_and_vectors_do_not() -> None:
    head = ProjectionHead(8, HeadConfig(prototypes=4, hidden=8, bottleneck=4))
    module = nn.ModuleDict({"head": head, "norm": nn.LayerNorm(8)})
    decayed, plain = parameter_groups(module, 0.04)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert decayed["weight_decay"] == 0.04
    assert plain["weight_decay"] == 0.0
    listed = {names[id(parameter)] for parameter in decayed["params"]}
    assert "head.class_layer.gain" in listed
    assert "head.mlp.0.weight" in listed
    left = {names[id(parameter)] for parameter in plain["params"]}
    assert left == {
        "head.mlp.0.bias", "head.mlp.2.bias", "head.mlp.4.bias", "norm.weight", "norm.bias",
    }  # fmt: skip


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    module = nn.Linear(3, 2).requires_grad_(False)
    assert parameter_groups(module, 0.1) == []
    module.bias.requires_grad_(True)
    (only,) = parameter_groups(module, 0.1)
    assert only["decayed"] is False


def test_each_gradient_is_limited_on_its_own() -> None:
    parameters = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    parameters[0].grad = torch.tensor([3.0, 4.0])
    parameters[1].grad = torch.tensor([0.3, 0.4])
    norms = clip_per_parameter_(parameters, 1.0)
    torch.testing.assert_close(norms, torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.8]))
    assert torch.equal(parameters[1].grad, torch.tensor([0.3, 0.4]))
    assert parameters[2].grad is None


def test_without_gradients_there_is_nothing_to_change() -> None:
    parameters = with_gradients(None)
    assert clip_per_parameter_(parameters, 1.0).numel() == 0
    assert clip_value_then_norm_(parameters, 1.0).numel() == 0
    assert normalise_gradients_(parameters) == 0
    add_l2_gradients_(parameters, 1.0)
    assert parameters[0].grad is None


def test_all_parameters_decay_on_request() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    (only,) = parameter_groups(module, 0.1, decay_all=True)
    assert only["decayed"] is True
    assert len(only["params"]) == 4


def test_elements_are_limited_before_the_norm_of_each_tensor() -> None:
    first, second, third = with_gradients([3.0, 0.01], [0.05, -0.05], None)
    norms = clip_value_then_norm_([first, second, third], 0.1)
    torch.testing.assert_close(norms, torch.tensor([math.hypot(3, 0.01), math.hypot(0.05, 0.05)]))
    expected = torch.tensor([0.1, 0.01])
    torch.testing.assert_close(first.grad, expected * 0.1 / expected.norm())
    assert torch.equal(second.grad, torch.tensor([0.05, -0.05]))  # type: ignore[arg-type]
    assert third.grad is None


def test_all_gradients_together_get_length_one() -> None:
    parameters = with_gradients([3.0, 0.0], [0.0, 0.0, -4.0], None)
    assert normalise_gradients_(parameters) == pytest.approx(5.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.0, 0.0, -0.8]))


def test_tiny_gradients_are_not_blown_up() -> None:
    (parameter,) = with_gradients([1e-4, 0.0])
    normalise_gradients_([parameter])
    torch.testing.assert_close(parameter.grad, torch.tensor([1e-4 / 1e-5**0.5, 0.0]))


def test_l2_gradient_is_that_of_the_penalty() -> None:
    parameter = torch.tensor([2.0, -3.0], requires_grad=True)
    (parameter.sum() + 0.1 * parameter.square().sum()).backward()  # type: ignore[no-untyped-call]
    expected, parameter.grad = parameter.grad, torch.ones(2)
    add_l2_gradients_([parameter, *with_gradients(None)], 0.1)
    torch.testing.assert_close(parameter.grad, expected)


def test_decay_stays_the_same_after_the_rate_drops() -> None:
    parameter = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter])
    for step, lr in enumerate((0.1, 0.02, 0.004), start=1):
        parameter.grad = torch.zeros(3)
        optimizer.param_groups[0].update(lr=lr, weight_decay=unscaled_decay(0.01, lr))
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.99**step))


def test_decay_that_the_rate_does_not_scale_needs_a_rate() -> None:
    assert unscaled_decay(0.0, 0.0) == 0.0
    with pytest.raises(ConfigError, match="needs a rate above 0"):
        unscaled_decay(0.01, 0.0)


def test_outer_epsilon_is_added_to_the_root_of_the_raw_moment() -> None:
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=1.0, betas=(0.9, 0.99), weight_decay=0.0)
    m = v = expected = 0.0
    for step, gradient in enumerate((1e-3, -2e-3, 5e-4)):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.param_groups[0]["eps"] = outer_epsilon(1e-3, 0.99, step)
        optimizer.step()
        m, v, t = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2, step + 1
        expected -= math.sqrt(1 - 0.99**t) / (1 - 0.9**t) * m / (math.sqrt(v) + 1e-3)
        assert parameter.item() == pytest.approx(expected, rel=1e-9)
