"""CrossTransformers: the shared contract on several backbones, then what is special to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fsl.backbones import Backbone, BackboneConfig, TokenBackbone, build_backbone
from fsl.backbones.conv4 import Conv4Config
from fsl.backbones.hybrid import ConvViTConfig
from fsl.backbones.resnet34_ctx import ResNet34CTXConfig
from fsl.config import build
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.methods.crosstransformer import CrossTransformer, CrossTransformerConfig
from fsl.testing import TOY_IMAGES, MethodContract, tiny_backbone, toy_episode
from fsl.types import Episode

SMALL = CrossTransformerConfig(key_dim=8, value_dim=12)


def token_backbone(config: BackboneConfig, images: ImageSpec = TOY_IMAGES) -> TokenBackbone:
    torch.manual_seed(0)
    backbone = build_backbone(config, images)
    assert isinstance(backbone, TokenBackbone)
    return backbone


class TestViT(MethodContract):
    config = SMALL


class TestConv4(MethodContract):
    config = SMALL

    def backbone(self) -> TokenBackbone:
        return token_backbone(Conv4Config(width=8, halvings=2, pool="mean"))


class TestConvViT(MethodContract):
    config = SMALL
    images = ImageSpec(size=16, mode="grey", normalisation="half")

    def backbone(self) -> TokenBackbone:
        config = ConvViTConfig(stem=(8, 16), width=16, depth=1, heads=2, drop_path=0.0)
        return token_backbone(config, self.images)


class TestResNet34(MethodContract):
    config = SMALL
    images = ImageSpec(size=32)

    def backbone(self) -> TokenBackbone:
        config = ResNet34CTXConfig(widths=(8, 8, 8, 16), blocks=(1, 1, 1, 1))
        return token_backbone(config, self.images)


class WithoutPatches(Backbone):
    def __init__(self) -> None:
        super().__init__(None, TOY_IMAGES)
        self.features = 4

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((-2, -1))


def test_a_backbone_without_patches_is_refused() -> None:
    with pytest.raises(ConfigError, match="WithoutPatches has none; use a backbone with patch"):
        CrossTransformer(SMALL, WithoutPatches())
    with pytest.raises(ConfigError, match=r"Conv4 has none; use .* conv4 with pool: mean"):
        CrossTransformer(SMALL, token_backbone(Conv4Config(width=8)))


def test_each_image_is_encoded_by_itself_to_keys_and_values_of_its_grid() -> None:
    method, episode = CrossTransformer(SMALL, tiny_backbone()).eval(), toy_episode()
    encoded = method.encode(episode.query_images)
    tasks, queries = episode.query_labels.shape
    assert encoded.shape == (tasks, queries, 16, 8 + 12)
    alone = method.encode(episode.query_images[1, 2:3])
    torch.testing.assert_close(alone, encoded[1, 2:3])


def test_queries_may_be_larger_than_the_support() -> None:
    method = CrossTransformer(SMALL, tiny_backbone()).eval()
    episode = toy_episode()
    larger = torch.nn.functional.interpolate(episode.query_images.flatten(0, 1), scale_factor=2.0)
    query = method.encode(larger.reshape(*episode.query_labels.shape, *larger.shape[1:]))
    support = method.encode(episode.support_images)
    assert query.shape[2] == 4 * support.shape[2]
    logits = method.logits(support, episode.support_labels, query, episode.ways)
    assert logits.shape == (*episode.query_labels.shape, episode.ways)
    assert torch.isfinite(logits).all()


def test_logits_of_tasks_together_are_those_of_each_task() -> None:
    method, episode = CrossTransformer(SMALL, tiny_backbone()).eval(), toy_episode(tasks=3)
    together = method.classify(episode)
    for task in range(3):
        one = Episode(
            episode.support_images[task : task + 1],
            episode.support_labels[task : task + 1],
            episode.query_images[task : task + 1],
            episode.query_labels[task : task + 1],
            episode.ways,
        )
        torch.testing.assert_close(method.classify(one), together[task : task + 1])


@pytest.mark.parametrize("key", ["key_dim", "value_dim", "init_std"])
def test_settings_must_be_positive(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: Input should be greater than"):
        build(CrossTransformerConfig, {key: 0})
