"""What the transformer backbones share: positions, mask embedding, blocks, class-token attention.

The blocks are timm's, and parameters have timm's names (`cls_token`, `pos_embed`, `blocks.0...`),
so published ViT weights load as they are. Added to them is one learnable vector that replaces
masked patches (iBOT; Zhou et al., ICLR 2022).

Letters in shapes: n images, N = h x w patches, D width, d width of one head.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsl.backbones import BackboneConfig, Layers, Tap, TokenBackbone, Tokens
from fsl.backbones.taps import no_such_layers, sequence_tap
from fsl.config import RuntimeOnly
from fsl.images import ImageSpec
from fsl.search_space import Uniform

EPSILON = 1e-6  # of the published ViTs' LayerNorm


class TransformerConfig(BackboneConfig):
    """Settings that all transformer backbones have."""

    drop_path: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.3)] = 0.1
    """Stochastic depth: probability of skipping the last block; linear from 0 at the first."""
    pool: Literal["cls", "mean"] = "cls"
    """Vector that represents the image: the class token, or the mean of the patch tokens."""
    checkpoint_blocks: Annotated[bool, RuntimeOnly] = False
    """Recompute the blocks in the backward pass: less memory, about a third more time."""


class TransformerBackbone(TokenBackbone):
    """Class token and patch tokens through pre-norm blocks; subclasses make the patch tokens.

    Args:
        config: the settings.
        images: what the pixels are.
        patches: grid (h, w) of images of the size in `images`; the position table has this size.
        width: D.
        depth: number of blocks.
        heads: attention heads per block.
        mlp_ratio: hidden width of the block's MLP, relative to D.
        qkv_bias: whether queries, keys and values have biases.
        table: a position table (1, 1 + h*w, D) that is not trained; None trains one.
        epsilon: of every LayerNorm.
    """

    pos_embed: Tensor

    def __init__(
        self,
        config: TransformerConfig,
        images: ImageSpec,
        *,
        patches: tuple[int, int],
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        table: Tensor | None = None,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__(config, images)
        self.features = width
        self.patches = self._grid = patches
        self.pool, self.checkpoint_blocks = config.pool, config.checkpoint_blocks
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        if table is None:
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches[0] * patches[1], width))
        else:
            self.register_buffer("pos_embed", table)
        self.masked_embed = nn.Parameter(torch.zeros(1, width))
        norm: Any = partial(LayerNorm, eps=epsilon)
        block = partial(Block, width, heads, mlp_ratio, qkv_bias, norm_layer=norm)
        rates = (
            torch.linspace(0, config.drop_path, depth, device="cpu").tolist()
            if depth > 1
            else [0.0]
        )
        self.blocks = nn.Sequential(*(block(drop_path=rate) for rate in rates))
        self.norm = norm(width)
        self._resizers: dict[tuple[int, int, torch.device], Tensor] = {}
        self._initialise()

    def _initialise(self) -> None:
        """Truncated normal 0.02 for linear weights, class token and positions; biases 0."""
        for table in (self.cls_token, self.pos_embed):
            if isinstance(table, nn.Parameter):
                nn.init.trunc_normal_(table, std=0.02)
        initialise_linear(self.blocks)

    @abstractmethod
    def embed_patches(self, images: Tensor) -> Tensor:
        """Return the feature map (n, D, h, w) whose cells become patch tokens."""

    def tokens(
        self, images: Tensor, masks: Tensor | None = None, attention: bool = False
    ) -> Tokens:
        """Return class and patch tokens after the final norm; see `TokenBackbone.tokens`."""
        cells = self.embed_patches(images)  # (n, D, h, w)
        self._grid = grid = (cells.shape[-2], cells.shape[-1])
        patches = cells.flatten(2).mT  # (n, N, D)
        cls: Tensor = self.cls_token
        if masks is None:  # stays in the graph: DistributedDataParallel waits for its gradient
            cls = cls + 0 * self.masked_embed
        else:
            hidden = masks.flatten(1).unsqueeze(-1)  # (n, N, 1)
            patches = torch.where(hidden, self.masked_embed, patches)
        # (n, 1 + N, D); under autocast it is float32 from here on, the residual stream stays so
        x = torch.cat([cls.expand(len(patches), -1, -1), patches], 1)
        x, row = self._run_blocks(x + self.positions(grid), attention)
        x = self.norm(x)
        patches = x[:, 1:]
        return Tokens(x[:, 0] if self.pool == "cls" else patches.mean(1), patches, row)

    def taps(self, layers: Layers = "last") -> tuple[Tap, ...]:
        """Return taps on the patch tokens before the final norm, or after every block.

        What the last block returns is seen where the norm takes it, since `tokens` does not call
        the block as a whole when it reads the attention.
        """
        last = sequence_tap(self.norm, "input", self.features, self.latest_grid)
        if layers == "last":
            return (last,)
        if layers == "stages":
            no_such_layers(self.config.name, layers, ("last", "blocks"))
        first = [*self.blocks][:-1]
        taps = (sequence_tap(each, "output", self.features, self.latest_grid) for each in first)
        return (*taps, last)

    def latest_grid(self) -> tuple[int, int]:
        """Return the patch grid (h, w) of the latest pass."""
        return self._grid

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the position table (1, 1 + h*w, D) for a patch grid (h, w), in float32.

        Another grid than the table's own is a linear map of the table: the map is computed once
        per grid, the product at every call, so that gradients reach the table.
        """
        if grid == self.patches:
            return self.pos_embed
        key = (*grid, self.pos_embed.device)
        if key not in self._resizers:
            self._resizers[key] = resize_matrix(self.patches, grid).to(self.pos_embed.device)
        with torch.autocast(self.pos_embed.device.type, enabled=False):
            resized = self._resizers[key].to(self.pos_embed.dtype) @ self.pos_embed[:, 1:]
        return torch.cat([self.pos_embed[:, :1], resized], 1)

    def _run_blocks(self, x: Tensor, attention: bool) -> tuple[Tensor, Tensor | None]:
        *first, last = self.blocks
        for block in first:
            x = self._run(block, x)
        return block_with_class_attention(last, x) if attention else (self._run(last, x), None)

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.checkpoint_blocks and self.training and torch.is_grad_enabled():
            again: Any = checkpoint(block, x, use_reentrant=False)
            return again  # type: ignore[no-any-return]
        out: Tensor = block(x)
        return out


def initialise_linear(module: nn.Module) -> None:
    """Set the weights of all linear layers to truncated normal 0.02, their biases to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def block_with_class_attention(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a timm block's output and its class token's attention to the patches.

    Only the class token's row of the attention map is computed, (n, heads, N) instead of
    (n, heads, 1 + N, 1 + N), from the same queries and keys that the fused kernel takes.

    Args:
        block: a pre-norm block of timm.
        x: tokens (n, 1 + N, D), class token first.
    """
    part = block.attn
    qkv = part.qkv(block.norm1(x)).unflatten(-1, (3, part.num_heads, -1))  # (n, 1+N, 3, heads, d)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (n, heads, 1 + N, d) each
    row = class_attention(query[:, :, 0], key)  # (n, heads, N)
    mixed = F.scaled_dot_product_attention(query, key, value)
    mixed = part.proj(mixed.transpose(1, 2).flatten(2))  # (n, 1 + N, D)
    x = x + block.drop_path1(block.ls1(mixed))
    out: Tensor = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return out, row


def class_attention(query: Tensor, key: Tensor) -> Tensor:
    """Return the class token's attention to the patches (n, heads, N), in float32.

    The softmax runs over all 1 + N keys; the class token's own column is then dropped, and
    nothing is renormalised.

    Args:
        query: the class token's queries (n, heads, d).
        key: all keys (n, heads, 1 + N, d).
    """
    query = query.float().unsqueeze(-2) * query.shape[-1] ** -0.5  # (n, heads, 1, d)
    # a product of one row per head is a poor matrix product: this takes a third of its time on a
    # CPU, and autocast leaves it in float32
    logits = (key * query).sum(-1)  # (n, heads, 1 + N)
    return logits.softmax(-1)[..., 1:]


def resize_matrix(patches: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return the bicubic map (h*w, H*W) from a table of H x W positions to a grid h x w.

    The scale factor of an axis is (h + 0.1) / H, as in DINO and all that followed: 0.1 guards
    against a floor error there and shifts the sampling points a little, so published weights
    expect it.
    """
    cells = patches[0] * patches[1]
    scale = [(new + 0.1) / old for new, old in zip(grid, patches, strict=True)]
    with torch.inference_mode(False), torch.no_grad():  # it is kept, also for training
        unit = torch.eye(cells).reshape(1, cells, *patches)  # one channel per old position
        return F.interpolate(unit, scale_factor=scale, mode="bicubic").flatten(2)[0].mT.contiguous()
