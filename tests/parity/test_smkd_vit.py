"""ViT with masked patches against the reference forward passes, kind smkd.vit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from fsl.backbones.vit import ViT, ViTConfig
from fsl.heads import HeadConfig
from fsl.images import ImageSpec
from fsl.method import build_method
from fsl.methods.smkd import SMKDConfig

if TYPE_CHECKING:
    Archive = Any

assert_close = partial(torch.testing.assert_close, rtol=0.0, atol=2e-5)  # the README's tolerance

pytestmark = pytest.mark.archive("smkd.vit")


@pytest.fixture
def vit(archive: Archive) -> ViT:
    config = ViTConfig(
        width=archive.integer("dim"),
        depth=archive.integer("depth"),
        heads=archive.integer("heads"),
        patch=archive.integer("patch"),
    )
    backbone = ViT(config, ImageSpec(size=archive.integer("img")))
    backbone.load_state_dict(archive.under("param/"))
    return backbone.eval()


def all_tokens(backbone: ViT, images: Tensor, masks: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        out = backbone.tokens(images, masks)
    return torch.cat([out.cls[:, None], out.patches], 1)


def test_masked_forward(archive: Archive, vit: ViT) -> None:
    tokens = all_tokens(vit, archive["x"], archive["mask"])
    assert_close(tokens, archive["tokens_masked"])


def test_unmasked_forward(archive: Archive, vit: ViT) -> None:
    assert_close(all_tokens(vit, archive["x"]), archive["tokens"])


def test_local_crops_get_interpolated_positions(archive: Archive, vit: ViT) -> None:
    grid = vit.grid(archive["x_local"].shape[-1])
    assert_close(vit.positions(grid), archive["pos_local"])
    tokens = all_tokens(vit, archive["x_local"])
    assert_close(tokens, archive["tokens_local"])


def test_class_token_attention_of_the_last_block(archive: Archive, vit: ViT) -> None:
    with torch.no_grad():
        out = vit.tokens(archive["x"], archive["mask"], attention=True)
    assert out.attention is not None
    row = archive["attn_last_masked"][:, :, 0, 1:]  # class token to patches
    assert_close(out.attention, row)
    tokens = torch.cat([out.cls[:, None], out.patches], 1)  # reading it changes nothing else
    assert_close(tokens, archive["tokens_masked"])


def test_evaluation_features(archive: Archive, vit: ViT) -> None:
    config = SMKDConfig(head=HeadConfig(prototypes=4, hidden=8, bottleneck=4))
    method = build_method(config, vit).eval()  # its teacher starts as a copy of the backbone
    with torch.no_grad():
        assert_close(method.embed(archive["x"]), archive["eval_features"])
