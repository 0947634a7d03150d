"""Accuracy of a method's own classifier on many tasks, each image encoded once.

Tasks are row numbers into one table of encoded images; blocks of tasks are answered together.

Letters in shapes: N images, *F what is kept of an image, E tasks, W ways, k shots, q queries.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fsl.errors import ConfigError
from fsl.evaluation import EpisodeScores, check_finite
from fsl.method import Method

BLOCK_FLOATS = 16_000_000
"""Largest gathered block, in floats (64 MB)."""


@torch.no_grad()
def method_scores(
    method: Method[Any],
    encoded: Tensor,
    labels: Tensor,
    support: Tensor,
    query: Tensor | None = None,
    *,
    max_queries: int = 600,
) -> EpisodeScores:
    """Right queries per task and way, when `method.logits` answers.

    Args:
        method: in evaluation mode.
        encoded: (N, *F), what `method.encode` returns.
        labels: (N,) class of each row.
        support: (E, W, k) rows of the support images.
        query: (E, W, q) rows of the queries, or None for the other images of each class, at most
            `max_queries` of them.
        max_queries: limit per class when `query` is None.

    Raises:
        ConfigError: something encoded or answered is not finite, or classes of different size
            would be padded for a method whose answers depend on the other queries.
    """
    check_finite(encoded, "encoded rows")
    width = math.prod(encoded.shape[1:])
    largest = int(labels.bincount().max()) if query is None else query.shape[2]
    images = support.shape[1] * (support.shape[2] + min(largest, max_queries))
    block = max(1, BLOCK_FLOATS // (images * width))
    right, asked = [], []
    for first in range(0, len(support), block):
        shown = support[first : first + block].long()
        if query is None:
            rows, real = remaining_queries(labels, shown, max_queries)
            _refuse_padding(method, real)
        else:
            rows = query[first : first + block].long()
            real = torch.ones_like(rows, dtype=torch.bool)
        hits = _hits(method, encoded, shown, rows) & real
        right.append(hits.sum(-1))
        asked.append(real.sum(-1))
    return EpisodeScores(torch.cat(right), torch.cat(asked))


def _refuse_padding(method: Method[Any], real: Tensor) -> None:
    """Refuse padded queries (E, W, q) where they would change the answers to the real ones."""
    if method.couples_queries and not bool(real.all()):
        raise ConfigError(
            f"queries: all, but classes differ in size and each answer of {method.config.name!r} "
            "with these settings depends on the other queries of its task; set queries to a number"
        )


def _hits(method: Method[Any], encoded: Tensor, support: Tensor, query: Tensor) -> Tensor:
    """Return which queries of a block are right, (E, W, q) bool."""
    ways = torch.arange(support.shape[1], device=support.device)
    labels = ways.repeat_interleave(support.shape[2]).expand(len(support), -1)  # (E, W*k)
    logits = method.logits(
        encoded[support.flatten(1)], labels, encoded[query.flatten(1)], support.shape[1]
    )  # (E, W*q, W)
    check_finite(logits.flatten(0, 1), "rows of query logits")
    return logits.argmax(-1).view_as(query) == ways[:, None]


def remaining_queries(labels: Tensor, support: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Return the rows of each way that are not support, padded, and which of them are real.

    Args:
        labels: (N,) class of each row.
        support: (E, W, k) rows.
        limit: most queries per way; the first in row order.

    Returns:
        (E, W, q) rows and (E, W, q) bool; q is the largest number of queries of a way.
    """
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    own = labels[support[..., 0]]  # (E, W)
    slots = torch.arange(int(counts[own].max()), device=labels.device)
    inside = slots < counts[own][..., None]  # (E, W, n)
    rows = order[torch.where(inside, starts[own][..., None] + slots, 0)]
    free = inside & (rows[..., None] != support[..., None, :]).all(-1)
    free &= free.cumsum(-1) <= limit
    most = int(free.sum(-1).max())
    first = free.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :most]
    return rows.gather(-1, first), free.gather(-1, first)
