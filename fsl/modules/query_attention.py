"""Query-aligned prototypes (CrossTransformers; Doersch, Gupta, Zisserman; NeurIPS 2020).

Every position of a query attends to all positions of all support images of a class at once; what
it finds there is compared with its own value. Keys and values of support and queries come from
the same two matrices, so the score behaves like a distance.

The attention is never held as a whole: fused kernels work on it in tiles, and large episodes go
through in parts that are computed again in the backward pass.

Letters in shapes: T tasks, S support images, Q queries, W ways, P positions of a support image,
p positions of a query, D features, dk width of a key, dv width of a value, G classes of a group,
K slots per class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsl.errors import ConfigError

PART_FLOATS = 2**24
"""Largest table of query-aligned prototypes, in floats (64 MB), before a batch is cut in parts."""


class CrossTransformerHead(nn.Module):
    """Keys and values of every position, (..., P, D) -> (..., P, dk + dv), without bias.

    Args:
        features: D.
        key_dim: dk.
        value_dim: dv.
        init_std: the weights start as a normal cut at two of these standard deviations.
    """

    def __init__(
        self, features: int, key_dim: int = 128, value_dim: int = 128, init_std: float = 0.1
    ) -> None:
        super().__init__()
        self.keys = nn.Linear(features, key_dim, bias=False)
        self.values = nn.Linear(features, value_dim, bias=False)
        for layer in (self.keys, self.values):
            nn.init.trunc_normal_(layer.weight, std=init_std, a=-2 * init_std, b=2 * init_std)

    def forward(self, cells: Tensor) -> Tensor:
        """Return keys and values, next to each other."""
        return torch.cat([self.keys(cells), self.values(cells)], -1)


class ShotGroup(NamedTuple):
    """Classes with similar numbers of support images, one class at a time in each task."""

    images: Tensor  # (T, G, K) which of the task's support images; repeats where not valid
    valid: Tensor | None  # (T, G, K) bool; None where all slots are filled


class ShotGroups(NamedTuple):
    """All classes of all tasks, ordered by their number of support images."""

    groups: list[ShotGroup]
    columns: Tensor  # (T, W): where each class stands in the groups laid end to end


def shot_groups(labels: Tensor, ways: int) -> ShotGroups:
    """Return the support images of each class, padded only to others of similar number.

    Classes go together whose shots differ by less than a factor of two, so padding at most doubles
    one task; with equal shots there is one group and none.

    Args:
        labels: (T, S), 0..ways-1 in any order.
        ways: W.
    """
    counts = F.one_hot(labels, ways).sum(1)  # (T, W)
    order = counts.argsort(dim=1, descending=True, stable=True)  # (T, W) class at each rank
    ranked = counts.gather(1, order)  # (T, W)
    members = labels.argsort(dim=1, stable=True)  # (T, S) images, class by class
    first = (counts.cumsum(1) - counts).gather(1, order)  # (T, W) of `members`, at each rank
    table = _checked(ranked)
    most = table.max(0)  # (W,) shots at each rank
    levels = np.floor(np.log2(most[0] / most)).astype(np.int64)  # (W,) ascending
    groups = []
    for level in np.unique(levels).tolist():  # at most log2(S) + 1
        ranks = slice(*np.searchsorted(levels, [level, level + 1]).tolist())
        slot = torch.arange(int(most[ranks.start]), device=labels.device)
        valid = slot < ranked[:, ranks, None]  # (T, G, K)
        place = first[:, ranks, None] + torch.where(valid, slot, 0)
        images = members.gather(1, place.flatten(1)).view_as(place)
        padded = table[:, ranks].sum() < images.numel()
        groups.append(ShotGroup(images, valid if padded else None))
    return ShotGroups(groups, order.argsort(dim=1))


def _checked(shots: Tensor) -> NDArray[np.int64]:
    """Return shots (T, W) as an array; raises ConfigError where there are none."""
    table: NDArray[np.int64] = shots.cpu().numpy()
    if table.min() < 1:
        task = int(table.min(1).argmin())
        raise ConfigError(
            f"task {task} of the batch has a class without support images; every label from 0 to "
            f"{table.shape[1] - 1} must be among its support labels"
        )
    return table


def query_distances(
    support: Tensor,
    labels: Tensor,
    query: Tensor,
    ways: int,
    *,
    key_dim: int,
    part_floats: int = PART_FLOATS,
) -> Tensor:
    """Return the distance of every query to every class, (T, Q, W), in float32.

    It is the squared distance of the query's values to its query-aligned prototype, summed over
    channels, mean over the query's positions.

    Args:
        support: keys and values (T, S, P, dk + dv).
        labels: (T, S), 0..ways-1 in any order; shots may differ between classes.
        query: keys and values (T, Q, p, dk + dv); p may differ from P.
        ways: W.
        key_dim: dk.
        part_floats: size limit of a part of the batch; at least one query of one task.
    """
    per_query = ways * query.shape[2] * (query.shape[3] - key_dim)  # prototypes, in floats
    tasks = _fitting(part_floats, max(per_query, support[0].numel()), len(query))
    queries = _fitting(part_floats, tasks * per_query, query.shape[1])
    again = torch.is_grad_enabled() and (tasks, queries) != tuple(query.shape[:2])
    with torch.autocast(query.device.type, enabled=False):
        return torch.cat(
            [
                _task_distances(
                    shot_groups(labels[rows], ways),
                    support[rows],
                    query[rows],
                    key_dim=key_dim,
                    queries=queries,
                    again=again,
                )
                for rows in _slices(len(query), tasks)
            ]
        )


def _fitting(limit: int, each: int, most: int) -> int:
    """Return how many things of a size fit into a limit: at least 1, at most `most`."""
    return min(most, max(1, limit // each))


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


def _task_distances(
    shots: ShotGroups, support: Tensor, query: Tensor, *, key_dim: int, queries: int, again: bool
) -> Tensor:
    """Return distances (T, Q, W) of some tasks, `queries` at a time.

    With `again`, what happens between keys and distances is computed again in the backward pass.
    """
    columns = []
    for group in shots.groups:
        keys, values = class_cells(support, group, key_dim)  # (T, G, K*P, d)
        parts = torch.split(query, queries, 1)
        recipe = (keys, values, group.valid, key_dim)
        done = [_again(part, *recipe) if again else _distances(part, *recipe) for part in parts]
        columns.append(torch.cat(done, 1))
    laid = torch.cat(columns, -1)  # (T, Q, W), by shots
    return laid.gather(-1, shots.columns[:, None].expand_as(laid))


def _again(*arguments: Any) -> Tensor:
    out: Tensor = checkpoint(_distances, *arguments, use_reentrant=False, preserve_rng_state=False)
    return out


def class_cells(support: Tensor, group: ShotGroup, key_dim: int) -> tuple[Tensor, Tensor]:
    """Return float32 keys and values of all positions of each class, (T, G, K*P, dk), (..., dv)."""
    tasks = torch.arange(len(support), device=support.device)[:, None, None]
    cells = support[tasks, group.images].float().flatten(2, 3)  # (T, G, K*P, dk + dv)
    return cells[..., :key_dim].contiguous(), cells[..., key_dim:].contiguous()


def aligned_prototypes(
    query_keys: Tensor, keys: Tensor, values: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Return what every position of every query finds in a class, (T, G, Q, p, dv).

    The softmax runs over all positions of all support images of the class. Classes are the heads
    of one fused attention; the queries are not copied for them.

    Args:
        query_keys: (T, Q, p, dk).
        keys: (T, G, K*P, dk).
        values: (T, G, K*P, dv).
        valid: (T, G, K) which support images there are; None for all.
    """
    key_dim, value_dim = keys.shape[-1], values.shape[-1]
    # Fused kernels want one width, a multiple of 8; zeros change no product.
    width = -(-max(key_dim, value_dim) // 8) * 8
    asking = _padded(query_keys.flatten(1, 2), width)[:, None]  # (T, 1, Q*p, d)
    mask = None
    if valid is not None:
        mask = valid.repeat_interleave(keys.shape[2] // valid.shape[2], -1)[:, :, None]
    found = F.scaled_dot_product_attention(
        asking.expand(-1, keys.shape[1], -1, -1),
        _padded(keys, width),
        _padded(values, width),
        attn_mask=mask,  # (T, G, 1, K*P)
        scale=key_dim**-0.5,
    )
    return found[..., :value_dim].reshape(*keys.shape[:2], *query_keys.shape[1:3], value_dim)


def _padded(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x


def _distances(
    query: Tensor, keys: Tensor, values: Tensor, valid: Tensor | None, key_dim: int
) -> Tensor:
    """Return distances (T, Q, G) of some queries to the classes of a group."""
    query = query.float()
    prototypes = aligned_prototypes(query[..., :key_dim].contiguous(), keys, values, valid)
    own = query[..., key_dim:].unsqueeze(1)  # (T, 1, Q, p, dv)
    return (own - prototypes).square().sum(-1).mean(-1).mT
