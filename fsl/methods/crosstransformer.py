"""CrossTransformers, CTX (Doersch, Gupta, Zisserman; NeurIPS 2020).

A class has no fixed prototype: every position of a query looks up what matches it in all support
images of the class, and the class is as near as what was found. So parts are compared with like
parts, wherever they are in the image.

Letters in shapes: T tasks, S support images, Q queries, W ways, P positions of an image's grid,
dk width of a key, dv width of a value.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from fsl.backbones import TokenBackbone
from fsl.errors import ConfigError
from fsl.method import METHODS
from fsl.methods.episodic import EpisodicConfig, EpisodicMethod
from fsl.modules.query_attention import CrossTransformerHead, query_distances
from fsl.search_space import Choice, Uniform


class CrossTransformerConfig(EpisodicConfig):
    """Settings of `CrossTransformer`."""

    name: Literal["crosstransformer"] = "crosstransformer"
    key_dim: Annotated[int, Field(ge=1, le=1024), Choice(64, 128, 256)] = 128
    """Width of the keys, which decide what is matched."""
    value_dim: Annotated[int, Field(ge=1, le=1024), Choice(64, 128, 256)] = 128
    """Width of the values, which are compared."""
    init_std: Annotated[float, Field(gt=0, le=1), Uniform(0.02, 0.3, log=True)] = 0.1
    """Spread of the first weights of keys and values, a normal cut at two of it. The logits grow
    with its square and with that of the tokens; 0.1 is the released value."""


@METHODS.register("crosstransformer")
class CrossTransformer(EpisodicMethod):
    """Few-shot classifier with query-aligned prototypes, trained end to end on episodes."""

    Config = CrossTransformerConfig
    config: CrossTransformerConfig
    backbone: TokenBackbone

    def __init__(self, config: CrossTransformerConfig, backbone: nn.Module) -> None:
        super().__init__(config, backbone)
        if not isinstance(backbone, TokenBackbone) or not backbone.has_patches:
            raise ConfigError(
                f"crosstransformer compares the patches of images, {type(backbone).__name__} has "
                "none; use a backbone with patch tokens, such as resnet34_ctx, vit, or conv4 with "
                "pool: mean"
            )
        self.head = CrossTransformerHead(
            backbone.features, config.key_dim, config.value_dim, config.init_std
        )

    def encode(self, images: Tensor) -> Tensor:
        """Return keys and values of every position, (..., C, H, W) -> (..., P, dk + dv)."""
        cls, patches, _ = self.backbone.tokens(images.flatten(0, -4))
        patches = patches + 0 * cls.sum()  # DDP waits for every gradient
        encoded: Tensor = self.head(patches)
        return encoded.reshape(*images.shape[:-3], *encoded.shape[1:])

    def logits(self, support: Tensor, support_labels: Tensor, query: Tensor, ways: int) -> Tensor:
        """Return query logits (T, Q, W) of encoded images (T, S, P, F) and (T, Q, P, F)."""
        key_dim = self.config.key_dim
        return -query_distances(support, support_labels, query, ways, key_dim=key_dim)
