"""Parameter groups and per-parameter clipping."""

from __future__ import annotations

import torch
from torch import nn

from fsl.heads import HeadConfig, ProjectionHead
from fsl.optimization import clip_per_parameter_, parameter_groups


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


def test_without_gradients_there_is_nothing_to_clip() -> None:
    assert clip_per_parameter_([torch.zeros(2, requires_grad=True)], 1.0).numel() == 0
