"""Prototypical Networks (Snell, Swersky, Zemel; NeurIPS 2017).

A class is represented by the mean of its support features; a query is assigned by a softmax over
negative squared distances to those means (eqs. 1 and 2).

Letters in shapes: T tasks, S support images, Q queries, W ways, D features.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fsl.method import METHODS, class_means
from fsl.methods.episodic import EpisodicConfig, EpisodicMethod
from fsl.search_space import Choice, Uniform

COSINE_EPSILON = 1e-3


class ProtoNetConfig(EpisodicConfig):
    """Settings of `ProtoNet`."""

    name: Literal["protonet"] = "protonet"
    metric: Annotated[Literal["sqeuclidean", "cosine"], Choice("sqeuclidean", "cosine")] = (
        "sqeuclidean"
    )
    """Distance of a query to a class mean. `cosine` wants a temperature near 0.1."""
    temperature: Annotated[float, Field(gt=0), Uniform(0.01, 100.0, log=True)] = 1.0
    """Logits are divided by this. The paper has 1 with squared distances."""


@METHODS.register("protonet")
class ProtoNet(EpisodicMethod):
    """Few-shot classifier trained end to end on episodes."""

    Config = ProtoNetConfig
    config: ProtoNetConfig

    def logits(self, support: Tensor, support_labels: Tensor, query: Tensor, ways: int) -> Tensor:
        """Return query logits (T, Q, W) of features (T, S, D) and (T, Q, D)."""
        prototypes = class_means(support, support_labels, ways)  # (T, W, D)
        score = cosine if self.config.metric == "cosine" else negative_squared_distance
        return score(query, prototypes) / self.config.temperature


def negative_squared_distance(query: Tensor, prototypes: Tensor) -> Tensor:
    """Return -|q - p|^2 summed over features, (T, Q, D) and (T, W, D) -> (T, Q, W), float32.

    Features and prototypes are first centred on the task's mean prototype: distances stay the
    same, and |q|^2 - 2 q.p + |p|^2 keeps its digits. It takes one matrix product under autocast
    off; nothing of size Q x W x D exists.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, prototypes = query.float(), prototypes.float()
        centre = prototypes.mean(1, keepdim=True)  # (T, 1, D)
        query, prototypes = query - centre, prototypes - centre
        squares = query.square().sum(-1)[..., None] + prototypes.square().sum(-1)[..., None, :]
        return 2 * query @ prototypes.mT - squares


def cosine(query: Tensor, prototypes: Tensor) -> Tensor:
    """Return cosine similarities, (T, Q, D) and (T, W, D) -> (T, Q, W), float32.

    Squared lengths are limited from below, as in Meta-Dataset's learner.
    """
    with torch.autocast(query.device.type, enabled=False):
        return _scaled(query.float()) @ _scaled(prototypes.float()).mT


def _scaled(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True).clamp_min(COSINE_EPSILON)).rsqrt()
