"""AWGIM (Guo, Cheung; CVPR 2020): weights of a linear classifier generated per query.

A network on fixed features sees a task and one query and emits that query's class weights in one
pass, without gradient steps; information terms keep the weights specific to task and query.

Letters in shapes: T tasks, S support items, Q queries, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from fsl.augment import SingleViewConfig
from fsl.augment.episode_batcher import EpisodicBatcher
from fsl.batchers import EpisodeBatcher
from fsl.images import ImageSpec
from fsl.method import METHODS, Method, MethodConfig
from fsl.metrics import accuracy
from fsl.modules.information_attention import InformationPaths, Shots
from fsl.modules.weight_generator import Tasks, Terms, WeightGenerator
from fsl.search_space import Choice, Uniform
from fsl.types import Episode, StepOutput

ReconstructionWeight = Annotated[float, Field(ge=0), Uniform(1e-5, 1e-1, log=True)]


class AWGIMConfig(MethodConfig):
    """Settings of `AWGIM`."""

    name: Literal["awgim"] = "awgim"
    width: Annotated[int, Field(ge=4, le=1024), Choice(64, 128, 256)] = 128
    """Length of the encoded vectors; all heads together."""
    heads: Annotated[int, Field(ge=1, le=64), Choice(1, 2, 4, 8)] = 4
    """Attention heads; they divide `width`."""
    dropout: Annotated[float, Field(ge=0, lt=1), Uniform(0.0, 0.6)] = 0.3
    """Rate at the input of every MLP and of both classifiers."""
    lambda_support: Annotated[float, Field(ge=0), Uniform(0.0, 2.0)] = 1.0
    """Weight of classifying the support items with every query's weights."""
    lambda_support_reconstruction: ReconstructionWeight = 1e-3
    """Weight of finding the contextual path again in the weights."""
    lambda_query_reconstruction: ReconstructionWeight = 1e-3
    """Weight of finding the attentive path again in the weights."""
    norm: Literal["token", "episode"] = "token"
    """Layer normalisation of each vector, or as published of all vectors of a task together; then
    the answer to one query depends on the other queries. Say which a number was made with."""
    recon_detach_paths: bool = False
    """Whether reconstruction leaves the two paths alone (paper) or trains them too (release)."""
    feature_norm: Annotated[Literal["none", "l2"], Choice("none", "l2")] = "l2"
    """Scaling of the features: as they are, or to unit length."""
    view: SingleViewConfig | None = None
    """Random view of each training image in front of a frozen network; null takes the evaluation
    view. Feature vectors stay as they are."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"heads {self.heads} does not divide width {self.width}; change one of them"
            )
        return self


@METHODS.register("awgim")
class AWGIM(Method[Episode]):
    """Weight generator on a frozen backbone, or on the vectors of a feature table."""

    Config = AWGIMConfig
    batch_type = Episode
    freezes_backbone = True
    uses_all_parameters: bool
    config: AWGIMConfig

    def __init__(self, config: AWGIMConfig, backbone: nn.Module) -> None:
        super().__init__(config, backbone.requires_grad_(False).eval())
        features = int(backbone.features)  # type: ignore[arg-type]
        self.paths = InformationPaths(
            features, config.width, heads=config.heads, dropout=config.dropout, norm=config.norm
        )
        self.generator = WeightGenerator(
            features, config.width, config.dropout, config.recon_detach_paths
        )
        self.uses_all_parameters = self._reconstructs
        self.couples_queries = config.norm == "episode"

    @classmethod
    def batcher(cls, config: Any, images: ImageSpec, grid_of: Any) -> EpisodeBatcher:
        """Return the maker of episodes; see `Method.batcher`."""
        del grid_of
        return EpisodicBatcher(images, config.view)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the backbone, whose statistics stay as they are."""
        super().train(mode)
        self.backbone.eval()
        return self

    def loss(self, batch: Episode) -> StepOutput:
        """Return cross-entropy of the queries plus the weighted information terms (eq. 20)."""
        terms = self.terms(self._tasks(batch))
        loss = (
            terms.query
            + self.config.lambda_support * terms.support
            + self.config.lambda_support_reconstruction * terms.support_reconstruction
            + self.config.lambda_query_reconstruction * terms.query_reconstruction
        )
        metrics = {
            "accuracy": accuracy(terms.logits, batch.query_labels),
            "query_loss": terms.query,
            "support_loss": terms.support,
            "support_reconstruction": terms.support_reconstruction,
            "query_reconstruction": terms.query_reconstruction,
        }
        return StepOutput(loss, {name: value.detach() for name, value in metrics.items()})

    def terms(self, tasks: Tasks, noise: Tensor | None = None) -> Terms:
        """Return the parts of the loss; `noise` (T, Q, S, D) replaces what is drawn."""
        shots = Shots.of(tasks.support_labels, tasks.ways)
        paths = self.paths(tasks.support, shots, tasks.query)
        return self.generator.terms(
            tasks, shots, paths, noise=noise, reconstruct=self._reconstructs
        )

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return features (..., D) of images (..., C, H, W), float32, scaled by `feature_norm`."""
        features = self.embed(images).float()
        return F.normalize(features, dim=-1) if self.config.feature_norm == "l2" else features

    def logits(self, support: Tensor, support_labels: Tensor, query: Tensor, ways: int) -> Tensor:
        """Return query logits (T, Q, W) under the mean weights, of encoded images."""
        shots = Shots.of(support_labels, ways)
        return self.generator.logits(self.paths(support, shots, query), query)

    @property
    def _reconstructs(self) -> bool:
        settings = self.config
        weights = settings.lambda_support_reconstruction, settings.lambda_query_reconstruction
        return any(weight > 0 for weight in weights)

    def _tasks(self, episode: Episode) -> Tasks:
        return Tasks(
            self.encode(episode.support_images),
            episode.support_labels,
            self.encode(episode.query_images),
            episode.query_labels,
            episode.ways,
        )
