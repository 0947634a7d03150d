"""Backbones: shapes, masks, positions, attention, other sizes, pretrained weights."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fsl.backbones import BACKBONES, BackboneConfig, TokenBackbone, build_backbone
from fsl.backbones.conv4 import Conv4Config
from fsl.backbones.hybrid import ConvViTConfig
from fsl.backbones.transformer import TransformerBackbone, resize_matrix
from fsl.backbones.vit import SIZES, ViT, ViTConfig
from fsl.config import build, fingerprint
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.momentum import make_teacher

SMALL = ImageSpec(size=32)
TINY_VIT = ViTConfig(size="micro", width=16, depth=2, heads=2, patch=8, drop_path=0.0)
TINY_HYBRID = ConvViTConfig(stem=(4, 8), width=16, depth=2, heads=2, drop_path=0.0)
MEAN_CONV4 = Conv4Config(width=8, pool="mean")
ALL = [TINY_VIT, TINY_HYBRID, MEAN_CONV4]
EVERY = pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
TRANSFORMERS = pytest.mark.parametrize("config", ALL[:2], ids=lambda config: config.name)


def make(config: BackboneConfig, images: ImageSpec = SMALL) -> TokenBackbone:
    torch.manual_seed(0)
    backbone = build_backbone(config, images)
    assert isinstance(backbone, TokenBackbone)
    return backbone


def pixels(count: int = 3, images: ImageSpec = SMALL, size: int | None = None) -> Tensor:
    side = size or images.size
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, images.channels, side, side, generator=generator)


def half_masks(backbone: TokenBackbone, count: int = 3, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(count, *backbone.grid(size), generator=generator) < 0.5


def test_ours_are_registered() -> None:
    assert {"conv4", "conv_vit", "vit"} <= set(BACKBONES.names())


@EVERY
@pytest.mark.parametrize("mode", ["rgb", "grey"])
def test_tokens_have_the_width_and_the_grid_of_the_backbone(
    config: BackboneConfig, mode: Any
) -> None:
    images = ImageSpec(size=32, mode=mode)
    backbone = make(config, images)
    rows, columns = backbone.grid(32)
    tokens = backbone.tokens(pixels(images=images), attention=True)
    assert tokens.cls.shape == (3, backbone.features)
    assert tokens.patches.shape == (3, rows * columns, backbone.features)
    if tokens.attention is not None:
        assert tokens.attention.shape == (3, 2, rows * columns)
    assert torch.equal(
        backbone.eval()(pixels(images=images)), backbone.tokens(pixels(images=images)).cls
    )


@EVERY
def test_smaller_crops_and_larger_images_have_their_own_grid(config: BackboneConfig) -> None:
    backbone = make(config)
    for size in (16, 24, 48):
        rows, columns = backbone.grid(size)
        assert backbone.tokens(pixels(size=size)).patches.shape[1] == rows * columns


@EVERY
def test_every_parameter_gets_a_gradient_with_and_without_masks(config: BackboneConfig) -> None:
    backbone = make(config)
    for masks in (None, half_masks(backbone)):
        backbone.zero_grad()
        tokens = backbone.tokens(pixels(), masks)
        (tokens.cls.square().sum() + tokens.patches.square().sum()).backward()  # type: ignore[no-untyped-call]
        missing = [name for name, p in backbone.named_parameters() if p.grad is None]
        assert not missing


@EVERY
def test_masks_hide_what_they_cover_and_the_mask_embedding_learns(config: BackboneConfig) -> None:
    backbone = make(config).eval()
    masks = half_masks(backbone)
    tokens = backbone.tokens(pixels(), masks)
    (tokens.patches * torch.randn(tokens.patches.shape)).sum().backward()  # type: ignore[no-untyped-call]
    embedding = backbone.get_parameter("masked_embed")
    assert embedding.grad is not None
    assert embedding.grad.abs().max() > 0
    with torch.no_grad():
        assert not torch.allclose(tokens.patches, backbone.tokens(pixels()).patches)
        nothing = backbone.tokens(pixels(), torch.zeros_like(masks))
        torch.testing.assert_close(nothing.patches, backbone.tokens(pixels()).patches)
        everything = backbone.tokens(pixels(), torch.ones_like(masks)).cls
        other = backbone.tokens(pixels() + 5, torch.ones_like(masks)).cls
    if config.name != "conv4":  # masked after its first stage: nothing of the pixels is left
        torch.testing.assert_close(everything, everything[:1].expand_as(everything))
    torch.testing.assert_close(everything, other)


def test_conv4_replaces_pixels_at_stage_0_and_odd_maps_at_later_ones() -> None:
    for stage in range(4):
        backbone = make(
            Conv4Config(width=8, pool="mean", mask_stage=stage), ImageSpec(size=84)
        ).eval()
        masks = torch.zeros(1, 5, 5, dtype=torch.bool)
        masks[0, 2, 2] = True
        x = pixels(1, size=84)
        with torch.no_grad():
            changed = (backbone.tokens(x).patches != backbone.tokens(x, masks).patches).any(-1)
        assert changed.view(5, 5)[2, 2]
        assert not changed.view(5, 5)[0, 0]


def test_conv4_flattens_84_pixel_images_to_1600_features() -> None:
    backbone = build_backbone(Conv4Config(), ImageSpec(size=84))
    assert backbone.features == 1600
    assert backbone(pixels(2, size=84)).shape == (2, 1600)


def test_flat_conv4_says_why_it_cannot_give_tokens_or_take_other_sizes() -> None:
    backbone = make(Conv4Config(width=8))
    with pytest.raises(ConfigError, match="set `pool: mean`"):
        backbone.tokens(pixels())
    with pytest.raises(ConfigError, match="needs images of side 32, got \\(64, 64\\)"):
        backbone(pixels(size=64))


@TRANSFORMERS
def test_class_attention_equals_the_row_of_the_full_map(config: BackboneConfig) -> None:
    backbone = make(config).eval()
    assert isinstance(backbone, TransformerBackbone)
    last: Any = backbone.blocks[-1]
    seen: list[Tensor] = []
    last.attn.qkv.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    with torch.no_grad():
        row = backbone.tokens(pixels(), attention=True).attention
        query, key, _ = seen[0].reshape(3, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
    full = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)  # (n, heads, 1 + N, 1 + N)
    assert row is not None
    torch.testing.assert_close(row, full[:, :, 0, 1:])
    assert bool((row.sum(-1) < 1).all())  # the class token's own column is dropped, not shared out


@TRANSFORMERS
def test_reading_attention_changes_no_token(config: BackboneConfig) -> None:
    backbone = make(config).eval()
    with torch.no_grad():
        plain, read = backbone.tokens(pixels()), backbone.tokens(pixels(), attention=True)
    torch.testing.assert_close(read.cls, plain.cls)
    torch.testing.assert_close(read.patches, plain.patches)


@pytest.mark.parametrize(
    ("old", "new"), [((14, 14), (6, 6)), ((14, 14), (20, 20)), ((4, 4), (3, 5))]
)
def test_resized_positions_are_torchs_bicubic_with_the_tenth(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    table = torch.randn(1, old[0] * old[1], 8)
    expected = nn.functional.interpolate(
        table.mT.reshape(1, 8, *old),
        scale_factor=((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1]),
        mode="bicubic",
    )
    assert list(expected.shape[-2:]) == list(new)
    resized = resize_matrix(old, new) @ table
    torch.testing.assert_close(resized, expected.flatten(2).mT, rtol=1e-4, atol=1e-5)


def test_positions_cached_in_inference_mode_still_train() -> None:
    backbone = make(TINY_VIT)
    with torch.inference_mode():
        backbone(pixels(size=16))
    backbone(pixels(size=16)).square().sum().backward()
    table = backbone.get_parameter("pos_embed").grad
    assert table is not None
    assert table[:, 1:].abs().max() > 0


def test_a_vit_starts_as_the_spec_says() -> None:
    backbone = make(ViTConfig(size="tiny", depth=2), ImageSpec(size=224))
    state = backbone.state_dict()
    for name in ("cls_token", "pos_embed", "blocks.1.mlp.fc1.weight", "blocks.0.attn.qkv.weight"):
        assert state[name].std() == pytest.approx(0.02, rel=0.2)
    assert not state["masked_embed"].any()
    assert state["masked_embed"].shape == (1, 192)
    assert not any(state[name].any() for name in state if name.endswith("fc1.bias"))
    assert isinstance(backbone, ViT)
    assert backbone.norm.eps == 1e-6
    bound = (3 * 16 * 16) ** -0.5  # the framework's default for the projection
    assert state["patch_embed.proj.weight"].abs().max() == pytest.approx(bound, rel=0.01)


def test_drop_path_rises_linearly_and_can_be_switched_off() -> None:
    backbone = make(ViTConfig(size="micro", depth=3, drop_path=0.2))
    assert isinstance(backbone, ViT)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in backbone.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    teacher = make_teacher(backbone).train()
    assert torch.equal(teacher(pixels()), teacher(pixels()))


@TRANSFORMERS
def test_pool_mean_represents_an_image_by_its_patches(config: BackboneConfig) -> None:
    tokens = make(config.model_copy(update={"pool": "mean"})).tokens(pixels())
    torch.testing.assert_close(tokens.cls, tokens.patches.mean(1))


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        backbone = make(TINY_VIT.model_copy(update={"checkpoint_blocks": again})).train()
        backbone(pixels()).square().sum().backward()
        gradients.append([p.grad for p in backbone.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_checkpointing_stays_out_of_the_fingerprint() -> None:
    assert fingerprint(ViTConfig()) == fingerprint(ViTConfig(checkpoint_blocks=True))


@EVERY
def test_backbones_can_be_copied_pickled_and_run_in_bfloat16(config: BackboneConfig) -> None:
    backbone = make(config).eval()
    expected = backbone(pixels(size=24))
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(other(pixels(size=24)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = backbone.tokens(pixels(size=24), attention=True)
    torch.testing.assert_close(tokens.cls.float(), expected, rtol=0.1, atol=0.1)
    if tokens.attention is not None:
        assert tokens.attention.dtype == torch.float32


def test_published_sizes_have_the_published_number_of_parameters() -> None:
    backbone = build_backbone(ViTConfig(size="small"), ImageSpec())
    weights = sum(p.numel() for name, p in backbone.named_parameters() if name != "masked_embed")
    assert weights == 21_665_664  # DINO's ViT-S/16 without head
    assert SIZES["small"] == (384, 12, 6, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "smal"}, "size: Input should be 'micro', 'nano'"),
        ({"heads": 5}, "width 384 is not a multiple of heads 5"),
        ({"depth": 0}, "depth: Input should be greater than or equal to 1"),
        ({"drop_path": 1.0}, "drop_path: Input should be less than 1"),
        ({"widht": 8}, "widht: unknown key; did you mean 'width'\\?"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(ViTConfig, settings)


def test_hybrid_needs_heads_that_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="width 128 is not a multiple of heads 3"):
        ConvViTConfig(heads=3)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (
            ViTConfig(),
            84,
            "image size 84 is not a multiple of the ViT's patch side 16; use size 80",
        ),
        (ConvViTConfig(stem=(4,) * 6), 32, "needs images of at least 64 pixels, got 32"),
        (Conv4Config(), 8, "at least 16 pixels, got 8"),
    ],
)
def test_image_sizes_that_do_not_fit_are_refused(
    config: BackboneConfig, size: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(config, ImageSpec(size=size))


def test_a_crop_of_another_multiple_is_refused_before_the_convolution_cuts_it() -> None:
    with pytest.raises(ConfigError, match="image size 20 is not a multiple"):
        make(TINY_VIT)(pixels(size=20))
