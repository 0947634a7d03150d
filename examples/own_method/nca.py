"""Neighbourhood component analysis on batches (Goldberger et al., NeurIPS 2004).

Every image of a batch should find its neighbours among the images of its own class. Laenen and
Bertinetto (NeurIPS 2021) found this a strong few-shot learner that needs no episodes in training.

Letters in shape comments: B images, D features.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fsl.augment import LabelledBatcher, SingleViewConfig
from fsl.batchers import Batcher
from fsl.images import ImageSpec
from fsl.method import Method, MethodConfig
from fsl.search_space import Uniform
from fsl.types import LabelledBatch, StepOutput


class NCAConfig(MethodConfig):
    """Settings of `NCA`."""

    name: Literal["nca"] = "nca"
    temperature: Annotated[float, Field(gt=0), Uniform(0.02, 1.0, log=True)] = 0.1
    """Cosine similarities are divided by this."""
    view: SingleViewConfig = SingleViewConfig()
    """The random view of each image."""


class NCA(Method[LabelledBatch]):
    """Images of a class attract each other, in proportion to their similarity."""

    Config = NCAConfig
    batch_type = LabelledBatch

    @classmethod
    def batcher(cls, config: NCAConfig, images: ImageSpec, grid_of: Any) -> Batcher:
        """Return what makes one view of each image."""
        del grid_of  # patches mean nothing to this method
        return LabelledBatcher(images, config.view)

    def loss(self, batch: LabelledBatch) -> StepOutput:
        """Negative log-probability that an image's neighbour has its class."""
        loss, found = nca_loss(self.embed(batch.images), batch.labels, self.config.temperature)
        return StepOutput(loss, {"neighbour_accuracy": found})


def nca_loss(features: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the loss () and the part of images () whose nearest neighbour has their class.

    Images without a classmate are left out; a batch of such images has loss 0.

    Args:
        features: (B, D).
        labels: (B,).
        temperature: of the softmax over neighbours.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=-1)
        scores = unit @ unit.mT / temperature  # (B, B)
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    mates = (labels[:, None] == labels[None]) & ~own  # (B, B)
    scores = scores.masked_fill(own, -1e4)  # finite: the gradient of logsumexp stays so
    everyone = scores.logsumexp(-1)  # (B,)
    classmates = scores.masked_fill(~mates, -1e4).logsumexp(-1)  # (B,)
    counted = mates.any(-1).float()  # (B,)
    loss = ((everyone - classmates) * counted).sum() / counted.sum().clamp_min(1)
    nearest = mates.gather(1, scores.argmax(-1, keepdim=True)).squeeze(1).float()  # (B,)
    return loss, (nearest * counted).sum() / counted.sum().clamp_min(1)
