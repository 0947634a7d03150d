"""Backbones by name; `build_backbone(config, images)` makes one.

Every backbone maps images (n, C, H, W) to features (n, D). Those that keep patches apart derive
from `TokenBackbone`: class token, patch tokens, grid, masked-patch embedding and the attention
of the class token in the last block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from fsl.config import Section, tagged
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.registry import Registry


class BackboneConfig(Section):
    """Base of the settings of a backbone."""

    name: str


class Tokens(NamedTuple):
    """What a token backbone returns, after its final norm."""

    cls: Tensor  # (n, D)
    patches: Tensor  # (n, N, D), row by row over the grid
    attention: Tensor | None  # (n, heads, N) class token -> patches, last block, not renormalised


Layers = Literal["last", "stages", "blocks"]
"""Which maps of tokens: the last one, one per stage, one per block."""


class Tap(NamedTuple):
    """Where a map of tokens can be seen while a backbone works.

    A forward hook on `module` sees it in every pass of `forward` or `tokens`. With activation
    checkpoints what the hook does on a block belongs to the block, which may run once more in the
    backward pass.
    """

    module: nn.Module
    place: Literal["input", "output"]
    """Which of the module's tensors it is; the input is the first argument."""
    features: int
    """D."""
    cells: Callable[[Tensor], tuple[Tensor, tuple[int, int]]]
    """That tensor -> tokens (n, N, D) row by row, and their grid (h, w). For sequences of tokens
    the grid is that of the latest pass: call it in the hook."""
    pooled: bool = False
    """Whether the recipe of dense relative localisation pools the map by two first."""


class Backbone(nn.Module):
    """Images (n, C, H, W) -> features (n, D).

    Attributes:
        features: D.
    """

    Config: ClassVar[type[BackboneConfig]]
    features: int

    def __init__(self, config: Any, images: ImageSpec) -> None:
        super().__init__()
        self.config = config
        self.images = images


class TokenBackbone(Backbone):
    """A backbone with a grid of patch tokens; `forward` returns the class token.

    Attributes:
        has_attention: whether `tokens` can return the class token's attention.
        hides_patches: whether `tokens` takes masks.
        has_patches: whether `tokens` works with the backbone's settings.
    """

    has_attention: ClassVar[bool] = True
    hides_patches: ClassVar[bool] = True
    has_patches: bool = True

    @abstractmethod
    def tokens(
        self, images: Tensor, masks: Tensor | None = None, attention: bool = False
    ) -> Tokens:
        """Return class and patch tokens.

        Args:
            images: (n, C, H, W); any size that is a multiple of the patch side.
            masks: (n, h, w) bool; True cells are replaced by the learnable mask embedding.
            attention: also return the class token's attention in the last block.
        """

    @abstractmethod
    def grid(self, size: int) -> tuple[int, int]:
        """Return the patch grid (h, w) of square images of side `size`."""

    def taps(self, layers: Layers = "last") -> tuple[Tap, ...]:
        """Return where maps of tokens can be seen, in the order of the pass.

        Args:
            layers: which maps; raises ConfigError for those that the backbone does not have.
        """
        raise ConfigError(
            f"layers: backbone {self.config.name!r} does not tell where its {layers!r} maps of "
            "tokens are; write its `taps`, or use another such as vit, swin or resnet"
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token (n, D)."""
        return self.tokens(images).cls


BACKBONES: Registry[type[Backbone]] = Registry("backbone", "fsl.backbones.builtin", "fsl.backbones")
AnyBackboneConfig = tagged(BACKBONES)
"""The settings of any registered backbone, chosen by `name`."""


def build_backbone(config: BackboneConfig, images: ImageSpec) -> Backbone:
    """Return the backbone that `config` describes, with fresh (or pretrained) weights."""
    return BACKBONES.get(config.name)(config, images)
