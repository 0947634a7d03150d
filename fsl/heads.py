"""The projection head of self-distillation: MLP, unit bottleneck, weight-normalised prototypes.

Losses take bottleneck features and prototypes, never logits of all tokens: `project` runs on the
rows a loss needs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fsl.config import Section
from fsl.search_space import Choice

ROWS_WITHOUT_GRADIENT = 2048
"""Rows per pass when no gradient is kept: bounds the hidden activations of a teacher."""


class HeadConfig(Section):
    """Settings of `ProjectionHead`."""

    prototypes: Annotated[int, Field(ge=2, le=1 << 18), Choice(128, 256, 1024, 4096, 8192)] = 8192
    """K, the outputs the class token is distilled through. Small data wants few (256)."""
    patch_prototypes: Annotated[int, Field(ge=2, le=1 << 18)] | None = None
    """Outputs for patch tokens; default null: one last layer serves class and patch tokens."""
    hidden: Annotated[int, Field(ge=8, le=1 << 14), Choice(256, 512, 1024, 2048)] = 2048
    """Width of the hidden layers."""
    bottleneck: Annotated[int, Field(ge=4, le=4096), Choice(64, 128, 256)] = 256
    """Width of the normalised output of the MLP."""
    layers: Annotated[int, Field(ge=1, le=8)] = 3
    """Linear layers of the MLP."""
    norm: Literal["none", "batch"] = "none"
    """`batch` standardises the backbone's tokens over the batch before the MLP: a fresh backbone
    gives all images nearly the same features, and distillation then stays at ln K for ever."""
    learn_gain: bool = True
    """Whether the length of each prototype is learnt; otherwise it stays 1."""


class Standardiser(NamedTuple):
    """Per-channel statistics of a batch of tokens, applied to any of its rows."""

    mean: Tensor  # (D,)
    scale: Tensor  # (D,)


class Prototypes(nn.Module):
    """A bias-free linear layer with weight normalisation: W = gain * direction / |direction|."""

    def __init__(self, bottleneck: int, count: int, learn_gain: bool) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(count, 1), requires_grad=learn_gain)
        self.direction = nn.Parameter(torch.empty(count, bottleneck))
        nn.init.trunc_normal_(self.direction, std=0.02)

    def weight(self) -> Tensor:
        """Return W (K, P), in float32 whatever autocast says."""
        with torch.autocast(self.direction.device.type, enabled=False):
            lengths = torch.linalg.vector_norm(self.direction, dim=1, keepdim=True)
            weight: Tensor = self.gain * (self.direction / lengths)
        return weight


class ProjectionHead(nn.Module):
    """Backbone tokens -> unit bottleneck features -> logits over prototypes."""

    def __init__(self, features: int, config: HeadConfig) -> None:
        super().__init__()
        widths = [features, *[config.hidden] * (config.layers - 1), config.bottleneck]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            linear = nn.Linear(before, after)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.standardise = config.norm == "batch"
        self.class_layer = Prototypes(config.bottleneck, config.prototypes, config.learn_gain)
        self.patch_layer = (
            Prototypes(config.bottleneck, config.patch_prototypes, config.learn_gain)
            if config.patch_prototypes is not None
            else None
        )

    def standardiser(self, tokens: Tensor) -> Standardiser | None:
        """Return the statistics of tokens (..., D), or None if the head does not standardise.

        Taken over all tokens of a kind, so that a row's projection does not depend on which
        other rows a loss chose.
        """
        if not self.standardise:
            return None
        rows = tokens.flatten(0, -2).float()
        variance, mean = torch.var_mean(rows, 0, correction=0)
        return Standardiser(mean, torch.rsqrt(variance + 1e-5))

    def project(self, rows: Tensor, standardiser: Standardiser | None = None) -> Tensor:
        """Return unit bottleneck features, rows (n, D) -> (n, P), at least float32."""
        if torch.is_grad_enabled() or len(rows) <= ROWS_WITHOUT_GRADIENT:
            return self._project(rows, standardiser)
        parts = torch.split(rows, ROWS_WITHOUT_GRADIENT)
        return torch.cat([self._project(part, standardiser) for part in parts])

    def class_prototypes(self) -> Tensor:
        """Return W of the class token (K, P)."""
        return self.class_layer.weight()

    def patch_prototypes(self) -> Tensor:
        """Return W of patch tokens (K', P); the class token's unless they are separate."""
        return (self.patch_layer or self.class_layer).weight()

    def last_layers(self) -> list[nn.Parameter]:
        """Return the parameters of the prototypes."""
        layers = [self.class_layer] + ([self.patch_layer] if self.patch_layer is not None else [])
        return [parameter for layer in layers for parameter in layer.parameters()]

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return raw logits: (n, D) -> (n, K); (n, 1+T, D) -> class (n, K) and patch (n, T, K').

        For looking at, and for small inputs; training uses `project` and fused losses.
        """
        projected = self.project(tokens.flatten(0, -2), self.standardiser(tokens))
        if tokens.ndim == 2:
            return projected @ self.class_prototypes().mT
        projected = projected.view(*tokens.shape[:-1], -1)
        patches = projected[:, 1:] @ self.patch_prototypes().mT
        return projected[:, 0] @ self.class_prototypes().mT, patches

    def _project(self, rows: Tensor, standardiser: Standardiser | None) -> Tensor:
        if standardiser is not None:
            rows = (rows.float() - standardiser.mean) * standardiser.scale
        hidden: Tensor = self.mlp(rows)
        precise = hidden if hidden.dtype == torch.float64 else hidden.float()
        return F.normalize(precise, dim=-1)  # float32: the default epsilon underflows in half
