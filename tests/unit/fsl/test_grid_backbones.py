"""Swin, CvT, T2T-ViT and the common residual networks."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fsl.backbones import BackboneConfig, TokenBackbone, build_backbone
from fsl.backbones.cvt import ChannelNorm, CvTConfig
from fsl.backbones.resnet import ResNetConfig, Shortcut
from fsl.backbones.swin import SwinConfig
from fsl.backbones.t2t import T2T, Performer, T2TConfig, linear_attention
from fsl.config import build
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.momentum import make_teacher

SMALL = ImageSpec(size=32)
CONFIGS: dict[str, BackboneConfig] = {
    "cvt": CvTConfig(size="micro", widths=(8, 12, 16), heads=(1, 1, 2), head_width=8),
    "resnet": ResNetConfig(depth=32),
    "swin": SwinConfig(size="micro", width=8, heads=(1, 2, 2), drop_path=0.0),
    "t2t": T2TConfig(size="micro", width=16, depth=2, token_width=8, dropout=0.0),
}
EVERY = pytest.mark.parametrize("name", sorted(CONFIGS))


def make(config: BackboneConfig, images: ImageSpec = SMALL) -> TokenBackbone:
    torch.manual_seed(0)
    backbone = build_backbone(config, images)
    assert isinstance(backbone, TokenBackbone)
    return backbone


def pixels(count: int = 3, side: int = 32, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, side, side, generator=generator)


def seen_by_taps(backbone: TokenBackbone, layers: Any, images: Tensor) -> list[Tensor]:
    """Return the cells that the taps show in one pass; all are outputs."""
    seen: list[Tensor] = []
    for tap in backbone.taps(layers):
        assert tap.place == "output"
        tap.module.register_forward_hook(
            lambda _module, _inputs, output, cells=tap.cells: seen.append(cells(output)[0])
        )
    backbone(images)
    return seen


def parameters_of(config: BackboneConfig, size: int = 224) -> int:
    with torch.device("meta"):
        backbone = build_backbone(config, ImageSpec(size=size))
    return sum(p.numel() for name, p in backbone.named_parameters() if name != "masked_embed")


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@EVERY
@pytest.mark.parametrize("what", ["forward", "cls", "patches"])
def test_every_parameter_gets_a_gradient(name: str, what: str) -> None:
    backbone = make(CONFIGS[name]).train()
    out = backbone(pixels()) if what == "forward" else getattr(backbone.tokens(pixels()), what)
    out.square().sum().backward()
    assert not [key for key, p in backbone.named_parameters() if p.grad is None]


@EVERY
@pytest.mark.parametrize("mode", ["rgb", "grey"])
@pytest.mark.parametrize("size", [16, 32, 48])
def test_tokens_have_the_width_and_the_grid(name: str, mode: Any, size: int) -> None:
    images = ImageSpec(size=32, mode=mode)
    backbone = make(CONFIGS[name], images).eval()
    x = pixels(3, size, images.channels)
    tokens = backbone.tokens(x, attention=True)
    rows, columns = backbone.grid(size)
    assert tokens.patches.shape == (3, rows * columns, backbone.features)
    assert (tokens.attention is not None) is (name == "t2t")
    assert torch.equal(backbone(x), tokens.cls)
    if name != "t2t":
        close(tokens.cls, tokens.patches.mean(1))


@pytest.mark.parametrize("name", ["cvt", "resnet", "swin"])
def test_masks_are_refused_with_what_to_use_instead(name: str) -> None:
    backbone = make(CONFIGS[name])
    masks = torch.zeros(3, *backbone.grid(32), dtype=torch.bool)
    with pytest.raises(ConfigError, match=f"'{name}' cannot hide masked .* use vit"):
        backbone.tokens(pixels(), masks)


@EVERY
def test_they_can_be_copied_pickled_and_run_in_bfloat16(name: str) -> None:
    backbone = make(CONFIGS[name]).eval()
    expected = backbone(pixels())
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(other(pixels()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(pixels())
    torch.testing.assert_close(features.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["cvt", "swin", "t2t"])
def test_drop_path_can_be_switched_off(name: str) -> None:
    backbone = make(CONFIGS[name].model_copy(update={"drop_path": 0.5})).train()
    assert not torch.equal(backbone(pixels()), backbone(pixels()))
    teacher = make_teacher(backbone)
    assert torch.equal(teacher(pixels()), teacher(pixels()))


@pytest.mark.parametrize(
    ("config", "cells"),
    [
        (SwinConfig(size="micro"), 4),
        (CvTConfig(size="micro"), 8),  # pooled by two before use
        (T2TConfig(size="micro"), 8),
        (ResNetConfig(depth=32), 8),
    ],
    ids=["swin", "cvt", "t2t", "resnet"],
)
def test_small_presets_keep_a_grid_at_32_pixels(config: BackboneConfig, cells: int) -> None:
    assert make(config).grid(32) == (cells, cells)


@pytest.mark.parametrize(
    ("schema", "settings", "message"),
    [
        (SwinConfig, {"heads": [3, 6, 12, 25]}, "heads 25 of stage 4 do not divide its width"),
        (SwinConfig, {"depths": [1, 1]}, "are of 2 stages, heads .* of 4"),
        (T2TConfig, {"heads": 5}, "width 384 is not a multiple of heads 5"),
        (T2TConfig, {"strides": [8, 2, 2]}, "would skip pixels"),
        (CvTConfig, {"depths": [1, 2]}, "depths.2: this key is required"),
        (ResNetConfig, {"depth": 34}, "depth: Input should be 10, 18, 32 or 50"),
    ],
)
def test_wrong_settings_are_named(schema: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(schema, settings)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        # the specification's number, without the classifier of 1000 classes
        (CvTConfig(), 19_936_296 - 385_000),
        (SwinConfig(), 27_519_354),  # timm's, without classifier
        (ResNetConfig(depth=18), 11_689_512 - 513_000),  # torchvision's
        (ResNetConfig(depth=50), 25_557_032 - 2_049_000),
        (ResNetConfig(depth=10), 4_905_792),  # stem 9,536, then 9 (C D + D D) + C D + norms
        # 9 (3 16 + 10 16 16 + 16 32 + 9 32 32 + 32 64 + 9 64 64) weights and the norms
        (ResNetConfig(depth=32), 463_504),
    ],
    ids=["cvt13", "swin", "18", "50", "10", "32"],
)
def test_published_sizes_have_the_published_number_of_parameters(
    config: BackboneConfig, weights: int
) -> None:
    assert parameters_of(config) == weights


def test_t2t14_has_the_published_size_with_its_fixed_tables() -> None:
    with torch.device("meta"):
        backbone = build_backbone(T2TConfig(), ImageSpec())
    fixed = sum(buffer.numel() for buffer in backbone.buffers())
    assert fixed == 197 * 384 + 2 * 32 * 64
    assert parameters_of(T2TConfig()) + fixed + 385_000 == pytest.approx(21.546e6, abs=5e2)


def test_swin_is_timms_and_its_taps_come_before_the_norm() -> None:
    name, depths = "swin_tiny_patch4_window7_224", (1, 1, 2, 1)
    model: Any = timm.create_model(name, num_classes=0, depths=depths)
    backbone = make(SwinConfig(depths=depths), ImageSpec()).eval()
    backbone.load_state_dict(model.state_dict())
    x = pixels(1, 224)
    with torch.no_grad():
        final, maps = model.eval().forward_intermediates(x, norm=False, output_fmt="NCHW")
        (last,) = seen_by_taps(backbone, "last", x)
        assert torch.equal(last, maps[3].flatten(2).mT)
        close(backbone(x), final.mean((1, 2)))
        stages = seen_by_taps(backbone, "stages", x)
        assert [cells.shape[1:] for cells in stages[:4]] == [
            (28 * 28, 192), (14 * 14, 384), (7 * 7, 768), (7 * 7, 768)
        ]  # fmt: skip
        merged = model.layers[1].downsample(maps[0].permute(0, 2, 3, 1))
        assert torch.equal(stages[0], merged.flatten(1, 2))
        assert torch.equal(stages[3], last)


def test_channel_norm_adds_epsilon_to_the_deviation() -> None:
    norm = ChannelNorm(4).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 1e-4 * torch.randn(2, 4, 3, 3, dtype=torch.float64)
    weight, bias = norm.weight[:, None, None], norm.bias[:, None, None]
    deviation = (x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True).sqrt()
    expected = (x - x.mean(1, keepdim=True)) / (deviation + 1e-5) * weight + bias
    torch.testing.assert_close(norm(x), expected)
    flat = torch.ones(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    norm(flat).sum().backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()
    usual = F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)
    assert not torch.allclose(norm(x), usual * weight + bias, rtol=1e-2)


def test_linear_attention_equals_a_plain_loop() -> None:
    query, key, value = torch.randn(3, 2, 5, 4, dtype=torch.float64).unbind()
    w = torch.randn(2, 4, dtype=torch.float64)

    def phi(z: Tensor) -> Tensor:
        return torch.stack([(row @ z - z @ z / 2).exp() for row in w]) / 2**0.5

    expected = torch.zeros_like(value)
    for image in range(2):
        for i in range(5):
            weights = torch.stack([phi(query[image, i]) @ phi(k) for k in key[image]])
            expected[image, i] = weights @ value[image] / (weights.sum() + 1e-8)
    torch.testing.assert_close(linear_attention(query, key, value, w), expected)


def test_a_performer_skips_by_its_value_and_has_orthogonal_directions() -> None:
    torch.manual_seed(0)
    layer = Performer(10, 6, 0.0)
    close(layer.w @ layer.w.mT, 3 * torch.eye(3))
    for part in (layer.proj, layer.mlp[2]):
        nn.init.zeros_(part.weight)  # type: ignore[arg-type]
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 7, 10)
    normed = F.layer_norm(x, (10,))
    close(layer(x), F.linear(normed, layer.kqv.weight[12:], layer.kqv.bias[12:]))


def test_t2t_starts_as_the_reference_and_trains_no_table() -> None:
    backbone = make(T2TConfig(depth=1), ImageSpec())
    assert isinstance(backbone, T2T)
    assert "pos_embed" not in dict(backbone.named_parameters())
    assert backbone.grid(224) == (14, 14)
    state = backbone.state_dict()
    for name in ("cls_token", "blocks.0.attn.qkv.weight", "tokens_to_token.project.weight"):
        assert state[name].std() == pytest.approx(0.02, rel=0.2)
    assert "blocks.0.attn.qkv.bias" not in state
    assert len(state["blocks.0.mlp.fc1.weight"]) == 3 * 384


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="leaves nothing of images of 8 x 8 pixels; enlarge"):
        make(T2TConfig(kernels=(4, 4, 4), strides=(4, 4, 4)), ImageSpec(size=8))
    with pytest.raises(ConfigError, match="32 is not a multiple of Swin's patch side 3; use"):
        make(SwinConfig(size="micro", patch=3))
    with pytest.raises(ConfigError, match="image size 33 is not a multiple"):
        make(CONFIGS["swin"])(pixels(side=33))


@pytest.mark.parametrize("depth", [18, 50])
def test_resnets_are_torchvisions(depth: int) -> None:
    torch.manual_seed(3)
    model = getattr(torchvision.models, f"resnet{depth}")()
    backbone = make(build(ResNetConfig, {"depth": depth})).eval()
    backbone.load_state_dict({k: v for k, v in model.state_dict().items() if k[:2] != "fc"})
    model.fc = nn.Identity()
    with torch.no_grad():
        close(backbone(pixels(2, 70)), model.eval()(pixels(2, 70)))
    assert backbone.grid(70) == (3, 3)
    assert backbone.grid(224) == (7, 7)


def test_shortcuts_of_the_small_resnet_have_no_parameters() -> None:
    x = pixels(2, 5)
    y = Shortcut(2)(x)
    assert y.shape == (2, 5, 3, 3)
    assert torch.equal(y[:, 1:4], x[:, :, ::2, ::2])
    assert not y[:, [0, 4]].any()
    names = [name for name, p in make(ResNetConfig(depth=32)).named_parameters() if p.ndim == 4]
    assert len(names) == 31  # and the classifier
    assert not [name for name in names if "downsample" in name]
