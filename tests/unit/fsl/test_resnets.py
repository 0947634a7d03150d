"""ResNet-12 and the ResNet-34 of CrossTransformers."""

from __future__ import annotations

import copy
import pickle
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.backbones import BackboneConfig, TokenBackbone, build_backbone
from fsl.backbones.resnet12 import ResNet12, ResNet12Config, drop_squares
from fsl.backbones.resnet34_ctx import (
    BasicBlock,
    Padding,
    ResNet34CTX,
    ResNet34CTXConfig,
    SameConv2d,
    convolution,
    halved,
)
from fsl.config import build
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.modules.episodic_norm import EpisodicBatchNorm2d, episodic

SMALL = ImageSpec(size=32)
TINY_12 = ResNet12Config(widths=(4, 5, 6, 8))
TINY_34 = ResNet34CTXConfig(widths=(4, 5, 6, 8), blocks=(1, 2, 1, 2))
CONFIGS = [
    TINY_12,
    TINY_12.model_copy(update={"norm": "episodic", "halvings": 3, "drop_rate": 0.2}),
    TINY_34,
    TINY_34.model_copy(update={"norm": "batch", "padding": "torch", "stride": 32}),
]
EVERY = pytest.mark.parametrize("config", CONFIGS, ids=["12", "12-episodic", "34", "34-batch"])


def make(config: BackboneConfig, images: ImageSpec = SMALL) -> TokenBackbone:
    torch.manual_seed(0)
    backbone = build_backbone(config, images)
    assert isinstance(backbone, TokenBackbone)
    return backbone


def pixels(count: int = 4, channels: int = 3, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, side, side, generator=generator)


def parameters_of(config: BackboneConfig, size: int) -> int:
    with torch.device("meta"):
        backbone = build_backbone(config, ImageSpec(size=size))
    return sum(p.numel() for p in backbone.parameters())


@EVERY
@pytest.mark.parametrize("side", [32, 33, 47])
@pytest.mark.parametrize("mode", ["rgb", "grey"])
def test_cells_are_tokens_and_their_mean_the_class_token(
    config: BackboneConfig, side: int, mode: Any
) -> None:
    backbone = make(config, ImageSpec(size=32, mode=mode)).eval()
    images = pixels(channels=backbone.images.channels, side=side)
    tokens = backbone.tokens(images, attention=True)
    rows, columns = backbone.grid(side)
    assert tokens.patches.shape == (4, rows * columns, backbone.features)
    assert tokens.attention is None
    close(tokens.cls, tokens.patches.mean(1))
    assert torch.equal(backbone(images), tokens.cls)


@EVERY
def test_patches_go_row_by_row_over_the_map(config: BackboneConfig) -> None:
    backbone = make(config).eval()
    assert isinstance(backbone, (ResNet12, ResNet34CTX))
    cells = backbone.cells(pixels())
    columns = cells.shape[-1]
    patch = backbone.tokens(pixels()).patches[:, columns - 1]
    assert torch.equal(patch, cells[:, :, 0, columns - 1])


@EVERY
def test_every_parameter_gets_a_gradient_from_the_features_alone(config: BackboneConfig) -> None:
    backbone = make(config)
    with episodic(backbone, 1, 2):
        backbone(pixels()).square().sum().backward()
    assert not [name for name, p in backbone.named_parameters() if p.grad is None]


@EVERY
def test_masks_are_refused_with_what_to_use_instead(config: BackboneConfig) -> None:
    backbone = make(config)
    masks = torch.zeros(4, *backbone.grid(32), dtype=torch.bool)
    with pytest.raises(ConfigError, match=f"'{config.name}' cannot hide masked .* use vit"):
        backbone.tokens(pixels(), masks)


@EVERY
def test_they_can_be_copied_pickled_and_run_in_bfloat16(config: BackboneConfig) -> None:
    backbone = make(config).eval()
    expected = backbone(pixels())
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(other(pixels()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(pixels())
    torch.testing.assert_close(features.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("config", [TINY_12, TINY_34], ids=["12", "34"])
def test_norm_chooses_all_norms(config: BackboneConfig) -> None:
    for norm in ("batch", "episodic"):
        backbone = make(config.model_copy(update={"norm": norm}))
        kinds = {type(m) for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)}
        assert kinds == {EpisodicBatchNorm2d if norm == "episodic" else nn.BatchNorm2d}


@pytest.mark.parametrize("config", [TINY_12, TINY_34], ids=["12", "34"])
def test_with_episodic_norm_other_queries_do_not_matter(config: BackboneConfig) -> None:
    backbone = make(config.model_copy(update={"norm": "episodic"})).train()
    images = pixels(8)
    with torch.no_grad():
        with episodic(backbone, 1, 4):
            together = backbone(images)
        with episodic(backbone, 1, 4):
            alone = backbone(images[:5])
        ordinary = backbone(images[:5])
    close(together[:5], alone)
    assert not torch.allclose(alone, ordinary, atol=1e-2)


def test_resnet12_has_the_published_size_and_grid() -> None:
    # sum over stages of 9 (C D + 2 D D) + C D weights and 8 D of batch norm: 12.4 million
    assert parameters_of(ResNet12Config(), 84) == 12_424_320
    backbone = make(TINY_12, ImageSpec(size=84))
    assert backbone.grid(84) == (5, 5)
    assert make(TINY_12.model_copy(update={"halvings": 3})).grid(32) == (4, 4)


def test_resnet12_follows_its_formula() -> None:
    backbone = make(TINY_12).eval()
    assert isinstance(backbone, ResNet12)
    state, x = backbone.state_dict(), pixels()
    for stage in range(4):

        def normed(y: Tensor, name: str, stage: int = stage) -> Tensor:
            keys = ("running_mean", "running_var", "weight", "bias")
            return F.batch_norm(y, *(state[f"stages.{stage}.{name}.{key}"] for key in keys))

        y = x
        for layer in (0, 3, 6):
            if layer:
                y = F.leaky_relu(y, 0.1)
            y = F.conv2d(y, state[f"stages.{stage}.body.{layer}.weight"], padding=1)
            y = normed(y, f"body.{layer + 1}")
        skip = normed(F.conv2d(x, state[f"stages.{stage}.shortcut.0.weight"]), "shortcut.1")
        x = F.max_pool2d(F.leaky_relu(y + skip, 0.1), 2)
    close(backbone.cells(pixels()), x)


def test_dropout_is_for_training_only() -> None:
    backbone = make(TINY_12.model_copy(update={"drop_rate": 0.3}))
    backbone.eval()
    assert torch.equal(backbone(pixels()), backbone(pixels()))
    backbone.train()
    assert not torch.equal(backbone(pixels()), backbone(pixels()))


def test_dropblock_drops_whole_squares_at_the_rate_asked_for() -> None:
    dropped = drop_squares(torch.ones(64, 32, 10, 9), 0.1, 3) == 0
    # Overlapping squares hide each other: E = 1 - (1 - start)^(squares over a cell) at most.
    share = dropped.float().mean().item()
    assert 0.085 < share < 0.1
    starts = dropped.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2).all(-1)  # (n, C, 8, 7)
    covered = F.max_pool2d(F.pad(starts.float(), (2, 2, 2, 2)), 3, stride=1).bool()
    assert torch.equal(covered, dropped)


def test_dropblock_keeps_the_mean_and_takes_maps_smaller_than_a_square() -> None:
    x = torch.full((2000, 4, 2, 3), 2.0)
    y = drop_squares(x, 0.25, 5)
    assert y.mean().item() == pytest.approx(2.0, rel=1e-5)
    per_map = (y == 0).flatten(2).float().mean(-1)
    assert set(per_map.flatten().tolist()) == {0.0, 1.0}
    assert per_map.mean().item() == pytest.approx(0.25, abs=0.02)


def test_dropblock_of_nearly_everything_stays_finite() -> None:
    assert torch.isfinite(drop_squares(torch.ones(1, 1, 2, 2), 0.999999, 2)).all()


def test_resnet34_has_the_published_size_and_grids() -> None:
    assert parameters_of(ResNet34CTXConfig(), 224) == pytest.approx(21.29e6, abs=5e3)
    assert make(TINY_34, ImageSpec(size=224)).grid(224) == (14, 14)
    assert make(CONFIGS[3], ImageSpec(size=224)).grid(224) == (7, 7)


def test_the_last_stage_of_stride_16_is_dilated() -> None:
    def first_and_later(config: ResNet34CTXConfig) -> list[tuple[Any, ...]]:
        backbone = make(config)
        assert isinstance(backbone, ResNet34CTX)
        blocks = [m for m in backbone.modules() if isinstance(m, BasicBlock)]
        return [(b.conv1.stride[0], b.conv1.dilation[0], b.conv2.dilation[0]) for b in blocks]

    beginning = [(1, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1)]
    assert first_and_later(TINY_34) == [*beginning, (1, 1, 2), (1, 2, 2)]
    coarse = TINY_34.model_copy(update={"stride": 32})
    assert first_and_later(coarse) == [*beginning, (2, 1, 1), (1, 1, 1)]


def test_resnet34_starts_from_truncated_normals() -> None:
    backbone = make(ResNet34CTXConfig(widths=(32, 32, 32, 32)))
    weights = torch.cat(
        [m.weight.detach().flatten() for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    )
    assert weights.abs().max() <= 0.2
    # a normal of deviation 1, cut at 2, has deviation 0.8796
    assert weights.std().item() == pytest.approx(0.08796, rel=0.01)


@pytest.mark.parametrize("side", range(1, 12))
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_same_padding_has_its_extra_row_at_the_end(side: int, kernel: int) -> None:
    def before(length: int) -> int:
        return max(2 * ((length + 1) // 2 - 1) + kernel - length, 0) // 2

    height, width = side, side + 1  # one of them is even
    layer = convolution(1, 1, kernel, stride=2, padding="same_tf")
    assert isinstance(layer, SameConv2d)
    x = torch.randn(1, 1, height, width)
    padded = torch.zeros(1, 1, 30, 30)
    top, left = before(height), before(width)
    padded[..., top : top + height, left : left + width] = x
    expected = F.conv2d(padded, layer.weight, stride=2)
    close(layer(x), expected[..., : (height + 1) // 2, : (width + 1) // 2])


@pytest.mark.parametrize("padding", get_args(Padding))
@pytest.mark.parametrize("side", range(1, 9))
def test_pooling_is_padded_like_convolutions(padding: Padding, side: int) -> None:
    x = -torch.rand(2, 3, side, side) - 1  # zero padding would win
    before = 1 if padding == "torch" or side % 2 else 0
    padded = torch.full((2, 3, side + 4, side + 4), -torch.inf)
    padded[..., before : before + side, before : before + side] = x
    out = (side + 1) // 2
    close(halved(x, padding), F.max_pool2d(padded, 3, 2)[..., :out, :out])


@pytest.mark.parametrize(
    ("schema", "settings", "message"),
    [
        (ResNet12Config, {"drop_rate": 1.0}, "drop_rate: Input should be less than 1"),
        (ResNet12Config, {"widths": [8, 8, 8]}, "widths.3: this key is required"),
        (ResNet34CTXConfig, {"stride": 8}, "stride: Input should be 16 or 32"),
        (ResNet34CTXConfig, {"padding": "same"}, "padding: Input should be 'same_tf' or 'torch'"),
        (ResNet34CTXConfig, {"norm": "layer"}, "norm: Input should be 'batch' or 'episodic'"),
    ],
)
def test_wrong_settings_are_named(schema: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(schema, settings)


def test_images_too_small_for_resnet12_are_refused() -> None:
    with pytest.raises(ConfigError, match="halvings 4 needs images of at least 16 pixels, got 15"):
        make(TINY_12, ImageSpec(size=15))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
