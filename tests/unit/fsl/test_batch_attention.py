"""Attention over the batch: what it may and may not depend on.

Numbers are compared in tests/parity, processes in tests/integration.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fsl.errors import ConfigError
from fsl.modules.batch_attention import BatchAttention, EncoderLayer
from fsl.momentum import make_teacher

SHAPES = [(12, 16), (12, 5, 16), (7, 16), (7, 2, 3, 16)]


def attention(features: int = 16, **settings: Any) -> BatchAttention:
    torch.manual_seed(0)
    return BatchAttention(features, **{"dropout": 0.0, **settings})


def first_layer(module: BatchAttention) -> EncoderLayer:
    layer = module.layers[0]
    assert isinstance(layer, EncoderLayer)
    return layer


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_order_of_the_samples_means_nothing(shape: tuple[int, ...], layers: int) -> None:
    module, rows = attention(layers=layers), torch.randn(shape)
    order = torch.randperm(len(rows))
    torch.testing.assert_close(module(rows[order]), module(rows)[order])
    assert module(rows).shape == shape


@pytest.mark.parametrize("layers", [1, 3])
def test_it_is_torchs_post_norm_encoder_over_the_batch(layers: int) -> None:
    module, rows = attention(layers=layers), torch.randn(9, 4, 16)
    one = nn.TransformerEncoderLayer(16, 4, dim_feedforward=16, dropout=0.5)
    torchs = nn.TransformerEncoder(one, layers, enable_nested_tensor=False)
    torchs.load_state_dict(module.state_dict())
    torch.testing.assert_close(module.eval()(rows), torchs.eval()(rows))
    torch.testing.assert_close(module(rows[:, 0]), torchs(rows[:, :1]).squeeze(1))


def test_fresh_weights_are_drawn_as_torch_draws_them() -> None:
    torch.manual_seed(3)
    expected = nn.TransformerEncoderLayer(64, 4, dim_feedforward=64).state_dict()
    actual = attention(64).layers[0].state_dict()
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name].std(correction=0), value.std(correction=0), rtol=0.1, atol=1e-3
        )


def test_positions_do_not_see_each_other() -> None:
    module, rows = attention(), torch.randn(6, 3, 16)
    together = module(rows)
    for position in range(3):
        torch.testing.assert_close(together[:, position], module(rows[:, position]))


def test_feature_maps_may_lie_in_memory_in_any_order() -> None:
    module, maps = attention(), torch.randn(6, 16, 2, 3).movedim(1, -1)  # (N, h, w, C)
    assert not maps.is_contiguous()
    torch.testing.assert_close(module(maps), module(maps.contiguous()))


@pytest.mark.parametrize("layers", [1, 2])
def test_the_loss_of_one_sample_reaches_every_sample(layers: int) -> None:
    module, rows = attention(layers=layers), torch.randn(8, 16, requires_grad=True)
    module(rows)[0].square().sum().backward()
    assert rows.grad is not None
    assert (rows.grad.abs().sum(1) > 0).all()


def test_dropout_works_in_training_only_and_not_in_a_teacher() -> None:
    module, rows = attention(dropout=0.5), torch.randn(8, 16)
    assert not torch.equal(module(rows), module(rows))
    without = attention(dropout=0.0)
    torch.testing.assert_close(module.eval()(rows), without(rows))
    with torch.no_grad():
        assert not torch.equal(module.train()(rows), module(rows))
    torch.testing.assert_close(make_teacher(module).train()(rows), without(rows))


def test_dropout_is_on_the_weights_and_at_three_more_places() -> None:
    module, rows = attention(dropout=0.5), torch.randn(8, 16)
    shapes: list[torch.Size] = []

    def undone(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> Tensor:
        shapes.append(inputs[0].shape)
        return inputs[0]

    first_layer(module).dropout.register_forward_hook(undone)
    assert not torch.equal(module(rows), module(rows))  # what is left is that of the weights
    assert shapes == 2 * 3 * [torch.Size([8, 1, 16])]
    torch.testing.assert_close(module.eval()(rows), attention()(rows))


def test_full_dropout_leaves_the_two_norms() -> None:
    module, rows = attention(), torch.randn(8, 16)
    layer = first_layer(module)
    layer.dropout.register_forward_hook(lambda *parts: torch.zeros_like(parts[2]))
    torch.testing.assert_close(module(rows), layer.norm2(layer.norm1(rows)))


@pytest.mark.parametrize("scope", ["device", "global"])
def test_a_batch_of_one_sees_only_itself(scope: str) -> None:
    module, rows = attention(scope=scope), torch.randn(1, 16)
    layer = first_layer(module)
    values = rows @ layer.self_attn.in_proj_weight[32:].T + layer.self_attn.in_proj_bias[32:]
    first = layer.norm1(rows + layer.self_attn.out_proj(values))
    expected = layer.norm2(first + layer.linear2(layer.linear1(first).relu()))
    torch.testing.assert_close(module(rows), expected)


def test_on_one_process_both_scopes_are_the_same() -> None:
    rows = torch.randn(6, 16)
    assert torch.equal(attention(scope="device")(rows), attention(scope="global")(rows))


def test_width_48_takes_one_head() -> None:
    assert attention(48, heads=1)(torch.randn(8, 48)).shape == (8, 48)


@pytest.mark.parametrize(("features", "heads"), [(48, 5), (18, 4), (2, 4)])
def test_heads_must_divide_the_width(features: int, heads: int) -> None:
    with pytest.raises(ConfigError, match=rf"heads: {heads} .*{features}.* divides it, e\.g\. \d"):
        attention(features, heads=heads)


def test_a_batch_without_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match="no samples"):
        attention()(torch.randn(0, 16))


def test_the_published_number_of_parameters() -> None:
    count = sum(p.numel() for p in attention(512).parameters())
    assert count == 6 * 512**2 + 10 * 512  # 4C²+4C attention, 2C²+2C feed-forward, 4C norms


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    module, rows = attention(dropout=0.5), torch.randn(8, 16, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out: Tensor = module(rows)
    out.float().sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(out).all()
    assert rows.grad is not None
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
