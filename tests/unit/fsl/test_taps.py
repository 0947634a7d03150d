"""Taps: where the maps of tokens of every backbone can be seen while it works."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fsl.backbones import BACKBONES, BackboneConfig, Tap, TokenBackbone, build_backbone
from fsl.backbones.conv4 import Conv4Config
from fsl.backbones.cvt import CvTConfig
from fsl.backbones.hybrid import ConvViTConfig
from fsl.backbones.resnet import ResNetConfig
from fsl.backbones.resnet12 import ResNet12Config
from fsl.backbones.resnet34_ctx import ResNet34CTXConfig
from fsl.backbones.swin import SwinConfig
from fsl.backbones.t2t import T2TConfig
from fsl.backbones.transformer import TransformerBackbone
from fsl.backbones.vit import ViTConfig
from fsl.errors import ConfigError
from fsl.images import ImageSpec

SMALL = ImageSpec(size=32)
TINY_SWIN = SwinConfig(size="micro", width=8, heads=(1, 2, 2), drop_path=0.0)
TINY_CVT = CvTConfig(size="micro", widths=(8, 12, 16), heads=(1, 1, 2), head_width=8)
TINY_T2T = T2TConfig(size="micro", width=16, depth=2, token_width=8, dropout=0.0)
CONFIGS: dict[str, BackboneConfig] = {
    "conv4": Conv4Config(widths=(4, 5, 6, 8), pool="mean", halvings=3),
    "conv_vit": ConvViTConfig(stem=(4, 8), width=16, depth=2, heads=2),
    "cvt": TINY_CVT,
    "resnet": ResNetConfig(depth=32),
    "resnet12": ResNet12Config(widths=(4, 5, 6, 8), halvings=3),
    "resnet34_ctx": ResNet34CTXConfig(widths=(4, 5, 6, 8), blocks=(1, 2, 1, 2)),
    "swin": TINY_SWIN,
    "t2t": TINY_T2T,
    "vit": ViTConfig(size="micro", width=16, depth=3, heads=2, patch=8),
}
LAYERS = {
    "conv4": ("last", "stages"),
    "conv_vit": ("last", "blocks"),
    "cvt": ("last", "stages", "blocks"),
    "resnet": ("last", "stages"),
    "resnet12": ("last", "stages"),
    "resnet34_ctx": ("last", "stages"),
    "swin": ("last", "stages", "blocks"),
    "t2t": ("last", "blocks"),
    "vit": ("last", "blocks"),
}
EVERY = pytest.mark.parametrize("name", sorted(CONFIGS))
EVERY_LAYER = pytest.mark.parametrize(
    ("name", "layers"), [(name, layers) for name in LAYERS for layers in LAYERS[name]]
)


def make(config: BackboneConfig, images: ImageSpec = SMALL) -> TokenBackbone:
    torch.manual_seed(0)
    backbone = build_backbone(config, images)
    assert isinstance(backbone, TokenBackbone)
    return backbone


def pixels(count: int = 3, height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, height, width, generator=generator)


def watched(backbone: TokenBackbone, layers: Any, images: Tensor, **asked: Any) -> list[Any]:
    """Return what the taps show, cells and grid, in the order in which it comes."""
    seen: list[tuple[Tensor, tuple[int, int]]] = []

    def hook(tap: Tap) -> Any:
        def show(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append(tap.cells(inputs[0] if tap.place == "input" else output))

        return tap.module.register_forward_hook(show)

    handles = [hook(tap) for tap in backbone.taps(layers)]
    backbone.tokens(images, **asked)
    for handle in handles:
        handle.remove()
    return seen


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_every_backbone_with_tokens_is_here() -> None:
    assert set(CONFIGS) == set(LAYERS) == set(BACKBONES.names()) - {"features"}


@EVERY_LAYER
@pytest.mark.parametrize("sides", [(32, 32), (16, 32), (48, 24)])
def test_they_show_cells_of_the_promised_width_and_grid(
    name: str, layers: Any, sides: tuple[int, int]
) -> None:
    backbone = make(CONFIGS[name])
    taps = backbone.taps(layers)
    seen = watched(backbone, layers, pixels(3, *sides))
    assert len(seen) == len(taps)
    for (cells, (rows, columns)), tap in zip(seen, taps, strict=True):
        assert cells.shape == (3, rows * columns, tap.features)
        assert tap.pooled is (name in ("cvt", "t2t"))
    assert seen[-1][1] == (backbone.grid(sides[0])[0], backbone.grid(sides[1])[0])


@EVERY_LAYER
def test_their_last_map_is_the_source_of_the_patch_tokens(name: str, layers: Any) -> None:
    backbone = make(CONFIGS[name]).eval()
    cells, _ = watched(backbone, layers, pixels())[-1]
    before_norm = name in ("swin", "vit", "conv_vit") or (name, layers) == ("t2t", "blocks")
    last = getattr(backbone, "norm")(cells) if before_norm else cells  # noqa: B009
    close(last, backbone.tokens(pixels()).patches)


@EVERY
def test_layers_that_a_backbone_lacks_are_refused(name: str) -> None:
    backbone = make(CONFIGS[name])
    for layers in {"last", "stages", "blocks"} - set(LAYERS[name]):
        with pytest.raises(ConfigError, match=f"layers: '{layers}' is not .* use last or"):
            backbone.taps(layers)  # type: ignore[arg-type]


def test_a_backbone_without_taps_says_so() -> None:
    backbone = make(CONFIGS["conv4"])
    with pytest.raises(ConfigError, match="backbone 'conv4' does not tell where its 'last'"):
        TokenBackbone.taps(backbone)


@pytest.mark.parametrize("name", ["vit", "conv_vit", "t2t"])
def test_blocks_are_seen_as_well_when_the_attention_is_read(name: str) -> None:
    backbone = make(CONFIGS[name]).eval()
    plain = watched(backbone, "blocks", pixels())
    read = watched(backbone, "blocks", pixels(), attention=True)
    for (expected, _), (cells, _) in zip(plain, read, strict=True):
        close(cells, expected)


def test_they_work_with_checkpointed_blocks() -> None:
    gradients = []
    for again in (False, True):
        update = {"checkpoint_blocks": again, "drop_path": 0.0}
        backbone = make(CONFIGS["vit"].model_copy(update=update)).train()
        seen = watched(backbone, "blocks", pixels())  # the hooks are gone before the backward pass
        sum(cells.square().mean() for cells, _ in seen).backward()
        gradients.append([p.grad for name, p in backbone.named_parameters() if "block" in name])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@EVERY_LAYER
def test_a_loss_on_them_reaches_the_pixels(name: str, layers: Any) -> None:
    images = pixels().requires_grad_()
    for cells, _ in watched(make(CONFIGS[name]).train(), layers, images):
        loss = (cells * torch.randn(cells.shape)).sum()
        (gradient,) = torch.autograd.grad(loss, images, retain_graph=True)
        assert gradient.abs().max() > 0


@EVERY
def test_they_can_be_copied_and_pickled(name: str) -> None:
    backbone = make(CONFIGS[name])
    for again in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        (tap,) = again.taps()
        assert tap.module in set(again.modules())


def test_vits_tap_is_what_the_norm_takes() -> None:
    backbone = make(CONFIGS["vit"]).eval()
    assert isinstance(backbone, TransformerBackbone)
    taken: list[Tensor] = []
    backbone.norm.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    ((cells, grid),) = watched(backbone, "last", pixels())
    assert torch.equal(cells, taken[0][:, 1:])
    assert grid == (4, 4)


def test_a_flat_conv4_has_its_maps_too() -> None:
    backbone = make(Conv4Config(width=8))
    (tap,) = backbone.taps()
    assert tap.features == 8
    assert backbone.features == 32
