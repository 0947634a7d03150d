"""Accuracy of linear classifiers on many episodes at once, from features computed once.

A classifier is fitted to the support of every episode and each query goes to the way with the
largest score; the simplest one is the class mean, compared by cosine. Episodes are row numbers into
one feature table, so no feature is computed twice and no loop runs over episodes.

With all remaining images as queries (the protocol of SMKD: about 3,000 queries per episode) the
work is grouped by class instead: the images of one class meet the prototypes of all episodes in
which it takes part in one matrix product, and no query feature is ever copied.

Letters: N images, D features, E episodes, W ways, k shots, q queries per way, n images of a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.errors import ConfigError

BLOCK_FLOATS = 16_000_000
"""Largest temporary, in floats (64 MB): episodes are taken in blocks of at most this."""
GATHER_FLOATS = 500_000
"""On a CPU queries are copied in pieces of this many floats, so that they are still in the cache
when they are multiplied."""


class Linear(NamedTuple):
    """One linear classifier per episode: scores are <x, weights> + bias."""

    weights: Tensor  # (E, W, D)
    bias: Tensor | None = None  # (E, W); None is zero

    def to(self, dtype: torch.dtype) -> Linear:
        """The same classifiers in another float type."""
        return Linear(self.weights.to(dtype), None if self.bias is None else self.bias.to(dtype))


Fit = Callable[[slice], Linear]
"""Returns the classifiers of some consecutive episodes."""


class EpisodeScores(NamedTuple):
    """How many queries of each way were right."""

    correct: Tensor  # (E, W) int64
    queries: Tensor  # (E, W) int64

    @property
    def accuracies(self) -> Tensor:
        """Fraction of right queries per episode, (E,) float64."""
        return self.correct.sum(-1).double() / self.queries.sum(-1)

    @property
    def way_accuracies(self) -> Tensor:
        """Fraction of right queries per episode and way, (E, W) float64."""
        return self.correct.double() / self.queries


def prototype_accuracies(
    features: Tensor,
    labels: Tensor,
    support: Tensor,
    query: Tensor | None = None,
    max_queries: int = 600,
) -> Tensor:
    """Accuracy of each episode, (E,) float64; see `prototype_scores`."""
    return prototype_scores(features, labels, support, query, max_queries).accuracies


def prototype_scores(
    features: Tensor,
    labels: Tensor,
    support: Tensor,
    query: Tensor | None = None,
    max_queries: int = 600,
) -> EpisodeScores:
    """Right queries per episode and way.

    Args:
        features: (N, D), any float type; all is computed in float32.
        labels: (N,) class of each row.
        support: (E, W, k) rows of the support images.
        query: (E, W, q) rows of the queries, or None for all other images of each class, in row
            order and at most `max_queries` of them.
        max_queries: limit per class when `query` is None.
    """
    features = features.float()
    return score_fitted(
        features,
        labels,
        support,
        lambda episodes: Linear(prototypes(features, support[episodes].long())),
        query=query,
        max_queries=max_queries,
    )


def score_fitted(
    features: Tensor,
    labels: Tensor,
    support: Tensor,
    fit: Fit,
    *,
    query: Tensor | None = None,
    max_queries: int = 600,
    floats: int = 0,
) -> EpisodeScores:
    """Right queries when the classifiers of each episode are fitted by `fit`, block by block.

    Args:
        features: (N, D) in the type in which the queries are scored.
        labels: (N,).
        support: (E, W, k) rows; never queries.
        fit: returns the classifiers of consecutive episodes, from their support.
        query: (E, W, q) rows, or None for the remaining images of each class.
        max_queries: limit per class when `query` is None.
        floats: what `fit` holds per episode besides the weights.
    """
    labels, support = labels.long(), support.long()
    check_episodes(features, labels, support, query)
    size = max(1, BLOCK_FLOATS // (support.shape[1] * features.shape[1] + floats))
    blocks = [slice(start, start + size) for start in range(0, len(support), size)]
    if query is not None:
        right = torch.cat(
            [_explicit_queries(features, query[block].long(), fit(block)) for block in blocks]
        )
        return EpisodeScores(right, torch.full_like(right, query.shape[2]))
    classes = _ClassTable(features, labels)
    parts = [
        _remaining_queries(classes, support[block], fit(block), max_queries) for block in blocks
    ]
    scores = EpisodeScores(*map(torch.cat, zip(*parts, strict=True)))
    if bool((scores.queries == 0).any()):
        raise ConfigError(
            f"a class has only {support.shape[2]} images, all of them support: no query is left; "
            "lower `shots`"
        )
    return scores


def score_episodes(
    features: Tensor,
    labels: Tensor,
    support: Tensor,
    weights: Tensor,
    *,
    query: Tensor | None = None,
    max_queries: int = 600,
) -> EpisodeScores:
    """Right queries when query x goes to the way w with the largest <x, weights[w]>.

    Args:
        features: (N, D).
        labels: (N,).
        support: (E, W, k) rows; never queries.
        weights: (E, W, D), one linear classifier without bias per episode.
        query: (E, W, q) rows, or None for the remaining images of each class.
        max_queries: limit per class when `query` is None.
    """
    return score_fitted(
        features.float(),
        labels,
        support,
        lambda episodes: Linear(weights[episodes]),
        query=query,
        max_queries=max_queries,
    )


def prototypes(features: Tensor, support: Tensor) -> Tensor:
    """Mean support feature of each way scaled to length 1, (N, D) and (E, W, k) -> (E, W, D)."""
    return F.normalize(way_means(features, support), dim=-1)


def way_means(features: Tensor, support: Tensor) -> Tensor:
    """Mean support feature of each way, (N, D) and (E, W, k) -> (E, W, D)."""
    means = F.embedding_bag(support.flatten(0, 1), features, mode="mean")  # (E*W, D)
    return means.reshape(*support.shape[:2], -1)


def _explicit_queries(features: Tensor, query: Tensor, linear: Linear) -> Tensor:
    """Right queries (e, W) among the rows (e, W, q)."""
    rows = query.flatten(1)  # (e, W*q)
    floats = GATHER_FLOATS if features.device.type == "cpu" else BLOCK_FLOATS
    size = max(1, floats // (rows.shape[1] * features.shape[1]))
    starts = range(0, len(rows), size)
    parts = [_predicted(features, rows[i : i + size], linear, slice(i, i + size)) for i in starts]
    own = torch.arange(query.shape[1], device=query.device)[:, None]
    return (torch.cat(parts).view_as(query) == own).sum(-1)


def _predicted(features: Tensor, rows: Tensor, linear: Linear, episodes: slice) -> Tensor:
    """Predicted way of each row (e, m), by the classifiers of `episodes`."""
    # index_select is twice as fast as indexing by a matrix of rows
    images = features.index_select(0, rows.flatten()).view(*rows.shape, -1)  # (e, m, D)
    scores = linear.weights[episodes] @ images.mT  # (e, W, m)
    if linear.bias is not None:
        scores += linear.bias[episodes, :, None]
    return scores.max(1).indices  # ten times as fast as argmax over this axis


def _remaining_queries(
    classes: _ClassTable, support: Tensor, linear: Linear, max_queries: int
) -> EpisodeScores:
    """Right and asked queries (e, W) of support rows (e, W, k)."""
    own_class = classes.labels[support[..., 0]]  # (e, W)
    right = torch.zeros_like(own_class)
    asked = torch.zeros_like(own_class)
    for number, images, start in classes:
        episodes, ways = (own_class == number).nonzero(as_tuple=True)  # (m,) each
        floats = own_class.shape[1] * (len(images) + images.shape[1])
        block = max(1, BLOCK_FLOATS // floats)
        for e, w in zip(torch.split(episodes, block), torch.split(ways, block), strict=True):
            scores = linear.weights[e] @ images.mT  # (m, W, n)
            if linear.bias is not None:
                scores += linear.bias[e, :, None]
            hit = scores.max(1).indices == w[:, None]  # (m, n)
            shown = classes.position[support[e, w]] - start  # (m, k) places within the class
            is_query = _query_mask(shown, len(images), max_queries)
            right[e, w] = (hit & is_query).sum(-1)
            asked[e, w] = is_query.sum(-1)
    return EpisodeScores(right, asked)


def _query_mask(support: Tensor, size: int, limit: int) -> Tensor:
    """Which of a class's images are queries, places (m, k) of the support -> (m, size) bool."""
    mask = torch.ones(len(support), size, dtype=torch.bool, device=support.device)
    mask.scatter_(1, support, False)
    if size - support.shape[1] > limit:
        mask &= mask.cumsum(1, dtype=torch.int32) <= limit
    return mask


class _ClassTable:
    """Features grouped by class; iterating gives (class, images (n, D), first place)."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels
        order = labels.argsort(stable=True)
        self.position = torch.empty_like(order)  # row -> place in the grouped table
        self.position[order] = torch.arange(len(order), device=order.device)
        self.grouped = features[order]
        self.classes, self.sizes = torch.unique_consecutive(labels[order], return_counts=True)

    def __iter__(self) -> Iterator[tuple[int, Tensor, int]]:
        start = 0
        pieces = torch.split(self.grouped, self.sizes.tolist())
        for number, images in zip(self.classes.tolist(), pieces, strict=True):
            yield number, images, start
            start += len(images)


def check_episodes(features: Tensor, labels: Tensor, support: Tensor, query: Tensor | None) -> None:
    """Refuse features that are not finite and episodes that do not fit them."""
    check_finite(features, "feature rows")
    if len(labels) != len(features):
        raise ConfigError(f"{len(features)} feature rows but {len(labels)} labels")
    rows = support if query is None else torch.cat([support, query.long()], -1)
    if support.numel() == 0 or int(rows.min()) < 0 or int(rows.max()) >= len(features):
        raise ConfigError(
            f"the episodes do not fit the features ({len(features)} rows): they were drawn from "
            "another split or data set; delete the episode bank"
        )
    if not bool((labels[rows] == labels[rows[..., :1]]).all()):
        raise ConfigError(
            "the images of a way belong to several classes: the episodes were drawn from another "
            "data set; delete the episode bank"
        )


def check_finite(rows: Tensor, what: str) -> None:
    """Refuse rows (N, *F) that hold something not finite: answers by them would be chance."""
    # the sum is finite only if all are, and six times as fast; large numbers may overflow it
    if not bool(rows.sum().isfinite()) and not bool(rows.isfinite().all()):
        bad = int((~rows.flatten(1).isfinite().all(-1)).sum())
        raise ConfigError(
            f"{bad} of {len(rows)} {what} are not finite: the model has diverged; "
            "evaluate an earlier checkpoint or lower the learning rate"
        )
