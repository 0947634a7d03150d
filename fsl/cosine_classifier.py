"""A linear classifier trained on the support of every episode, all episodes at once.

The second evaluation protocol of SMKD (Lin et al., CVPR 2023): a cosine classifier with a
learnable gain per way, 301 epochs of SGD in batches of 4, scored on the queries. `softmax` is the
plain linear layer on unscaled features.

A gradient of such a layer is a combination of its inputs, so each weight never leaves the span of
its start and the S support features. Training therefore runs in an orthonormal basis of that span
(R = S + W numbers instead of D) and is rotated back at the end: the same steps, D / R times less
arithmetic (77 times for 5-way 1-shot at D = 768).

Letters: E episodes, W ways, k shots, S = W*k support images, D features, R basis, b batch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.evaluation import EpisodeScores, score_episodes

EPOCHS, BATCH = 301, 4
LEARNING_RATE, MOMENTUM, DAMPENING, WEIGHT_DECAY = 0.01, 0.9, 0.9, 1e-3
SCALE = 2.0
EPSILON = 1e-5

EPISODES_PER_BLOCK = 500
"""Random numbers are drawn per block, so this is part of the definition of an episode's result."""

Kind = Literal["cosine", "softmax"]


class Start(NamedTuple):
    """What is random in the training of a block of episodes."""

    weights: Tensor  # (E, W, D)
    gains: Tensor  # (E, W); the softmax variant does not use them
    orders: Tensor  # (epochs, E, S) int64, the support images in the order they are shown


def classifier_scores(
    features: Tensor,
    labels: Tensor,
    support: Tensor,
    query: Tensor | None = None,
    max_queries: int = 600,
    *,
    seed: int = 0,
    kind: Kind = "cosine",
    epochs: int = EPOCHS,
    first: int = 0,
) -> EpisodeScores:
    """Right queries per episode and way; arguments as `fsl.evaluation.prototype_scores`.

    Args:
        features: (N, D).
        labels: (N,).
        support: (E, W, k) rows.
        query: (E, W, q) rows, or None for the remaining images of each class.
        max_queries: limit per class when `query` is None.
        seed: of start weights and batch orders; episode i of a seed is always the same.
        kind: cosine classifier, or a plain linear layer with bias.
        epochs: passes over the support.
        first: number of the first episode: a part of a bank is answered like the whole.
    """
    inputs = classifier_inputs(features, kind)
    block, before = divmod(first, EPISODES_PER_BLOCK)
    ends = list(range(EPISODES_PER_BLOCK - before, len(support), EPISODES_PER_BLOCK))
    weights = []
    for rows in torch.tensor_split(support.long(), ends):
        start = random_start(
            block, rows, inputs.shape[1], before=before, seed=seed, kind=kind, epochs=epochs
        )
        shown = inputs[rows.flatten(1)]  # (E, S, D)
        weights.append(train_classifiers(shown, rows.shape[2], start, kind))
        block, before = block + 1, 0
    return score_episodes(
        inputs, labels, support, torch.cat(weights), query=query, max_queries=max_queries
    )


def classifier_inputs(features: Tensor, kind: Kind = "cosine") -> Tensor:
    """What the layer multiplies, (N, D) -> (N, D), or (N, D + 1) with a 1 for the bias."""
    features = features.float()
    if kind == "cosine":
        inputs: Tensor = features / (features.norm(dim=-1, keepdim=True) + EPSILON)
        return inputs
    return F.pad(features, (0, 1), value=1.0)


def random_start(
    block: int, support: Tensor, width: int, *, before: int = 0, seed: int, kind: Kind, epochs: int
) -> Start:
    """Start weights (PyTorch's default of a linear layer) and batch orders within one block.

    Args:
        block: its number.
        support: (E, W, k) rows; only the shape is used.
        width: D of the layer's inputs.
        before: number of episodes of the block that come earlier.
        seed: the same seed, block and place give the same numbers.
        kind: cosine classifier, or a plain linear layer.
        epochs: number of orders.
    """
    count, ways, shots = support.shape
    own = slice(before, before + count)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + block) % 2**63)
    bound = (width if kind == "cosine" else width - 1) ** -0.5
    weights = torch.rand(EPISODES_PER_BLOCK, ways, width, generator=generator)
    weights = ((2 * weights - 1) * bound)[own]
    orders = [  # drawn for a full block: a part of it must not change its episodes
        torch.rand(EPISODES_PER_BLOCK, ways * shots, generator=generator).argsort(-1)[own]
        for _ in range(epochs)
    ]
    start = Start(weights, weights.norm(dim=-1), torch.stack(orders))
    return Start(*(part.to(support.device) for part in start))


def train_classifiers(inputs: Tensor, shots: int, start: Start, kind: Kind = "cosine") -> Tensor:
    """Weights after the last epoch.

    Args:
        inputs: (E, S, D) from `classifier_inputs`, way by way.
        shots: k, so that row s belongs to way s // k.
        start: random start weights and orders.
        kind: cosine classifier, or a plain linear layer.

    Returns:
        (E, W, D): logits are inputs @ weights.mT (gain and scale are in the weights).
    """
    basis = _basis(torch.cat([inputs, start.weights], dim=1))  # (E, D, R) or None
    reduced, weights = inputs, start.weights
    if basis is not None:
        reduced, weights = inputs @ basis, weights @ basis  # (E, S, R), (E, W, R)
    layer = _CosineLayer(weights, start.gains) if kind == "cosine" else _LinearLayer(weights)
    episodes, ways, _ = weights.shape
    flat = reduced.flatten(0, 1)  # (E*S, R): indexing whole rows is four times faster than gather
    first = inputs.shape[1] * torch.arange(episodes, device=inputs.device)[:, None]
    for order in start.orders:  # (E, S)
        shown = flat[order + first].view_as(reduced)  # (E, S, R)
        targets = F.one_hot(order // shots, ways).float()  # (E, S, W)
        for x, y in zip(torch.split(shown, BATCH, 1), torch.split(targets, BATCH, 1), strict=True):
            layer.step(x, y)
    trained = layer.matrix()  # (E, W, R)
    return trained if basis is None else trained @ basis.mT


class _LinearLayer:
    """One weight matrix per episode under SGD with momentum and dampening."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = _Parameter(weights)

    def matrix(self) -> Tensor:
        return self.weights.value

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step on inputs (E, b, R) and one-hot targets (E, b, W)."""
        error = _logit_gradient(x @ self.matrix().mT, y)  # (E, b, W)
        self.weights.step(error.mT @ x)


class _CosineLayer:
    """Weights gain * v / |v|; gradients go to gain and v, as under weight normalisation."""

    def __init__(self, directions: Tensor, gains: Tensor) -> None:
        self.directions = _Parameter(directions)  # (E, W, R)
        self.gains = _Parameter(gains[..., None])  # (E, W, 1)

    def matrix(self) -> Tensor:
        v = self.directions.value
        matrix: Tensor = v * (SCALE * self.gains.value / v.norm(dim=-1, keepdim=True))
        return matrix

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step on inputs (E, b, R) and one-hot targets (E, b, W)."""
        v, gain = self.directions.value, self.gains.value
        length = v.norm(dim=-1, keepdim=True)  # (E, W, 1)
        unit = v / length
        logits = x @ (unit * (SCALE * gain)).mT  # (E, b, W)
        slope = SCALE * (_logit_gradient(logits, y).mT @ x)  # (E, W, R), by gain * unit
        along = (slope * unit).sum(-1, keepdim=True)  # (E, W, 1), by gain
        self.directions.step((slope - along * unit) * (gain / length))
        self.gains.step(along)


class _Parameter:
    """A tensor and its momentum buffer; the first step takes the gradient undampened."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.clone()
        self.buffer: Tensor | None = None

    def step(self, gradient: Tensor) -> None:
        gradient = gradient.add(self.value, alpha=WEIGHT_DECAY)
        if self.buffer is None:
            self.buffer = gradient
        else:
            self.buffer.mul_(MOMENTUM).add_(gradient, alpha=1 - DAMPENING)
        self.value.add_(self.buffer, alpha=-LEARNING_RATE)


def _logit_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the batch's mean cross-entropy by the logits, all (E, b, W)."""
    return (logits.softmax(-1) - targets) / logits.shape[1]


def _basis(vectors: Tensor) -> Tensor | None:
    """Orthonormal basis (E, D, R) of the span of (E, R, D); None when it would not be smaller."""
    if vectors.shape[1] >= vectors.shape[2]:
        return None
    basis: Tensor = torch.linalg.qr(vectors.mT).Q
    return basis
