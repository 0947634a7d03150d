"""What methods that learn from episodes share: cross-entropy of the queries of each task.

Letters in shapes: T tasks, S support images, Q queries, W ways, *F what is kept of an image.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fsl.augment import SingleViewConfig
from fsl.augment.episode_batcher import EpisodicBatcher
from fsl.augment.simclr_episodes import SimCLREpisodeConfig
from fsl.batchers import EpisodeBatcher
from fsl.images import ImageSpec
from fsl.method import Method, MethodConfig
from fsl.metrics import accuracy
from fsl.modules import episodic_norm
from fsl.search_space import Choice
from fsl.types import Episode, Progress, StepOutput


class EpisodicConfig(MethodConfig):
    """Settings that all episodic methods have."""

    view: SingleViewConfig | None = None
    """Random view of each training image; null takes the evaluation view, as published."""
    simclr_fraction: Annotated[float, Field(ge=0, le=1), Choice(0.0, 0.25, 0.5)] = 0.0
    """Share of training tasks that become SimCLR episodes: every support image is a class, and
    its queries are other views of it (CrossTransformers, section 3.3; 0.5 there). Each task is then
    passed through the network by itself."""
    simclr: SimCLREpisodeConfig = SimCLREpisodeConfig()
    """How SimCLR episodes change images."""


class EpisodicMethod(Method[Episode]):
    """Trains on tasks as it is evaluated: label the queries, given the support."""

    batch_type = Episode
    config: EpisodicConfig

    @classmethod
    def batcher(cls, config: Any, images: ImageSpec, grid_of: Any) -> EpisodeBatcher:
        """Return the maker of episodes; see `Method.batcher`."""
        del grid_of
        return EpisodicBatcher(images, config.view, config.simclr_fraction, config.simclr)

    def begin_step(self, progress: Progress) -> None:
        """Set all schedules; running averages of episodic batch norm then move once."""
        super().begin_step(progress)
        episodic_norm.begin_step(self.backbone)

    def loss(self, batch: Episode) -> StepOutput:
        """Return the mean cross-entropy of the queries against their own task's classes."""
        support, query = self.encode_episode(batch)
        logits = self.logits(support, batch.support_labels, query, batch.ways)  # (T, Q, W)
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch.query_labels.flatten())
        return StepOutput(loss, {"accuracy": accuracy(logits.detach(), batch.query_labels)})

    def encode_episode(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Return encoded support (T, S, *F) and queries (T, Q, *F): one pass over all images."""
        tasks, shown = episode.support_labels.shape
        images = torch.cat(
            [episode.support_images.flatten(0, 1), episode.query_images.flatten(0, 1)]
        )  # (T*S + T*Q, C, H, W)
        with episodic_norm.episodic(self.backbone, tasks, shown):
            encoded = self.encode(images)
        support, query = torch.split(encoded, [tasks * shown, len(images) - tasks * shown])
        shape = encoded.shape[1:]
        return support.reshape(tasks, shown, *shape), query.reshape(tasks, -1, *shape)
