"""Linear classifiers fitted to the support of many episodes at once.

Nearest class mean (squared Euclidean), and in float64 ridge regression onto one-hot targets and
multinomial logistic regression with an L2 penalty, whose optimum is that of scikit-learn's
`LogisticRegression(C)`. The weights of the last two lie in the span of the support features, so
they are found there: an episode of S support images costs S numbers per way instead of D.

Letters: E episodes, W ways, k shots, S = W*k support images, D features, R = min(S, D).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.batched_lbfgs import minimise
from fsl.errors import ConfigError
from fsl.evaluation import Linear

TOLERANCE = 1e-9
MAX_ITERATIONS = 2000
RANK = 1e-14
"""Directions of the support that are this much weaker than the strongest count as rounding."""


def nearest_mean(means: Tensor) -> Linear:
    """The class mean with the smallest squared distance, (E, W, D) -> E classifiers.

    Only differences between the means enter: far from the origin nothing cancels but the mean.
    """
    middle = means.mean(1, keepdim=True)  # (E, 1, D)
    away = means - middle
    return Linear(away, -(away * (middle + away / 2)).sum(-1))


def ridge(support: Tensor, strength: float) -> Linear:
    """Least squares onto one-hot targets plus `strength` times the squared weights.

    The intercept is not penalised; predictions are those of scikit-learn's `RidgeClassifier`.

    Args:
        support: (E, W, k, D).
        strength: penalty, > 0.

    Raises:
        ConfigError: the penalty is lost in the rounding of the squared features.
    """
    images, mean = _centred(support)  # (E, S, D), (E, 1, D)
    ways, shots = support.shape[1:3]
    targets = _one_hot(ways, shots, images) - 1 / ways  # (S, W)
    small = _small_gram(images)  # (E, R, R)
    small.diagonal(dim1=-2, dim2=-1).add_(strength)
    factor, failed = torch.linalg.cholesky_ex(small)
    if failed.any():
        raise ConfigError(
            f"ridge: strength {strength:g} is too small beside the squared features in "
            f"{int(failed.count_nonzero())} of {len(failed)} tasks; raise strength, or set "
            "features: l2"
        )
    if images.shape[1] <= images.shape[2]:
        shares = torch.cholesky_solve(targets.expand(len(images), -1, -1), factor)  # (E, S, W)
        weights = shares.mT @ images
    else:
        weights = torch.cholesky_solve(images.mT @ targets, factor).mT
    return Linear(weights, -(weights @ mean.mT)[..., 0])


def logistic(support: Tensor, strength: float) -> Linear:
    """Multinomial logistic regression, the optimum of scikit-learn's `LogisticRegression`.

    Minimises sum |weights|² / 2 + strength * sum of cross-entropies; the intercept is free. With
    two ways scikit-learn fits one weight vector w = w1 - w0 under |w|² / 2, which is twice the
    penalty of two opposite ones.

    Args:
        support: (E, W, k, D).
        strength: C, > 0.
    """
    images, mean = _centred(support)
    episodes, ways, shots = support.shape[:3]
    if ways == 2:
        strength = strength / 2
    span = _span(images)
    # At equal probabilities the second derivative by a coordinate with sum of squares v is
    # 1/C + v/W. Dividing by its root makes the first step Newton's, whatever the features' scale.
    second = 1 / strength + span.squares / ways  # (E, R)
    free = torch.full_like(second[:, :1], shots)  # the intercept has no penalty
    scale = torch.cat([second, free], 1).sqrt()[..., None]  # (E, R+1, 1)
    inputs = F.pad(span.coordinates, (0, 1), value=1.0) / scale.mT  # (E, S, R+1)
    penalty = torch.cat([1 / (strength * second), torch.zeros_like(free)], 1)  # (E, R+1)
    problem = _CrossEntropy(inputs, penalty, _one_hot(ways, shots, images))
    start = torch.zeros(episodes, inputs.shape[2] * ways).to(images)
    found = minimise(
        problem,
        start,
        tolerance=TOLERANCE,
        max_iterations=MAX_ITERATIONS,
        advice="logistic: lower C, or set features: l2",
    )
    solution = found.view(episodes, -1, ways) / scale  # (E, R+1, W)
    weights = span.lift(solution[:, :-1], images)  # (E, W, D)
    return Linear(weights, solution[:, -1] - (weights @ mean.mT)[..., 0])


def fit_floats(ways: int, shots: int, width: int) -> int:
    """Float32 numbers that fitting holds per episode, besides the weights."""
    images = ways * shots
    rank = min(images, width)
    history = 24 * (rank + 1) * ways  # steps, changes, points and gradients of L-BFGS
    return 2 * (2 * images * width + 3 * images * rank + history)


class _CrossEntropy(NamedTuple):
    """Summed cross-entropies plus the penalty, as functions of scaled weights."""

    inputs: Tensor  # (E, S, R+1)
    penalty: Tensor  # (E, R+1)
    targets: Tensor  # (S, W) one-hot

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = x.view(len(x), -1, self.targets.shape[1])  # (E, R+1, W)
        logits = self.inputs @ weights  # (E, S, W)
        log_p = logits.log_softmax(-1)
        pull = self.penalty[..., None] * weights  # (E, R+1, W)
        value = (weights * pull).sum((1, 2)) / 2 - (log_p * self.targets).sum((1, 2))
        gradient = self.inputs.mT @ (log_p.exp() - self.targets) + pull
        return value, gradient.flatten(1)

    def select(self, kept: Tensor) -> _CrossEntropy:
        """Return only the functions of some episodes."""
        return _CrossEntropy(self.inputs[kept], self.penalty[kept], self.targets)


class _Span(NamedTuple):
    """Orthogonal coordinates of the centred support, by which weights are searched."""

    coordinates: Tensor  # (E, S, R)
    squares: Tensor  # (E, R) sum of squares of each coordinate
    back: Tensor  # (E, S, R) if S <= D, else (E, D, R)

    def lift(self, weights: Tensor, images: Tensor) -> Tensor:
        """Weights by coordinates (E, R, W) -> weights by features (E, W, D)."""
        weights = (self.back @ weights).mT
        return weights @ images if images.shape[1] <= images.shape[2] else weights


def _span(images: Tensor) -> _Span:
    """Principal axes of centred images (E, S, D)."""
    squares, vectors = torch.linalg.eigh(_small_gram(images))  # (E, R), (E, R, R)
    squares = squares.clamp_min(0)
    if images.shape[1] > images.shape[2]:
        return _Span(images @ vectors, squares, vectors)
    real = squares > RANK * squares[:, -1:]
    lengths = torch.where(real, squares, 0).sqrt()[:, None]  # (E, 1, S)
    inverse = torch.where(real[:, None], 1 / lengths, 0.0)
    return _Span(vectors * lengths, squares, vectors * inverse)


def _small_gram(images: Tensor) -> Tensor:
    """Products of images or of features, whichever are fewer, (E, S, D) -> (E, R, R)."""
    few_images = images.shape[1] <= images.shape[2]
    return images @ images.mT if few_images else images.mT @ images


def _centred(support: Tensor) -> tuple[Tensor, Tensor]:
    """Support (E, W, k, D) -> images (E, S, D) less their mean, and the mean (E, 1, D)."""
    images = support.double().flatten(1, 2)
    mean = images.mean(1, keepdim=True)
    return images - mean, mean


def _one_hot(ways: int, shots: int, like: Tensor) -> Tensor:
    """Targets (S, W) of a support that is sorted by way."""
    return torch.eye(ways).to(like).repeat_interleave(shots, 0)
