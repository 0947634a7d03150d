"""AWGIM's weight generator (Guo, Cheung; CVPR 2020): a linear classifier for every query.

From the two paths of a task the generator makes a distribution of class weights per query and
support item; in training they are sampled, in evaluation the mean is taken. Two decoders must
find the paths again in the sampled weights, which keeps the information in them.

Letters in shapes: T tasks, S support items, Q queries, W ways, D features, h width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsl.modules.information_attention import Paths, Shots, linear, mlp

TRAINING_BLOCK = 2**24
"""Elements of one (T, q, S, D) tensor in training. About ten are alive for backward; more queries
than fit are done block by block, each computed again in backward."""
EVALUATION_BLOCK = 2**18
"""Elements of one (t, q, W, 2h) tensor in evaluation: small enough to stay in the cache."""


class Tasks(NamedTuple):
    """Tasks of feature vectors; a support label outside 0..ways-1 marks padding."""

    support: Tensor  # (T, S, D)
    support_labels: Tensor  # (T, S)
    query: Tensor  # (T, Q, D)
    query_labels: Tensor  # (T, Q)
    ways: int


class Terms(NamedTuple):
    """The parts of the training loss (eq. 20), float32, and the logits they came from."""

    logits: Tensor  # (T, Q, W)
    query: Tensor  # () cross-entropy of the queries
    support: Tensor  # () cross-entropy of all support items under the weights of every query
    support_reconstruction: Tensor  # () squared error of the contextual path, summed over h
    query_reconstruction: Tensor  # () squared error of the attentive path, summed over h


class WeightGenerator(nn.Module):
    """Paths -> class weights.

    Args:
        features: D.
        width: h of the paths.
        dropout: rate at every input of the generator, the decoders and both classifiers.
        detach_paths: whether reconstruction trains generator and decoders only, as the paper
            says; in the release its gradient runs on into the paths.
    """

    def __init__(
        self, features: int, width: int, dropout: float, detach_paths: bool = False
    ) -> None:
        super().__init__()
        self.dropout, self.detach_paths = nn.Dropout(dropout), detach_paths
        self.hidden = linear(2 * width, 2 * width)  # of [context, attentive]
        self.output = linear(2 * width, 2 * features)  # [mean, logarithm of the deviation]
        self.support_decoder = mlp((features, 2 * width, width), dropout)
        self.query_decoder = mlp((features, 2 * width, width), dropout)

    def logits(self, paths: Paths, query: Tensor) -> Tensor:
        """Return <q, mean weights> (T, Q, W), float32, of queries (T, Q, D).

        Folded: the shots of a class share one row, the first layer is applied to both halves of
        its input apart, and the last one to the query instead of to the hidden units. So neither
        the weights nor the concatenated input exist.
        """
        context, attentive = self._halves(paths.context, paths.attentive)  # (T, W, 2h), (T, Q, 2h)
        with torch.autocast(query.device.type, enabled=False):
            mean_layer = self.output.weight.float().chunk(2)[0]  # (D, 2h)
            asked = query.float() @ mean_layer  # (T, Q, 2h)
            return _relu_products(context.float(), attentive.float(), asked)

    def weights(self, paths: Paths) -> Tensor:
        """Return the mean weights (T, Q, W, D) themselves; large, meant for a look inside."""
        context, attentive = self._halves(paths.context, paths.attentive)
        hidden = F.relu(context[:, None] + attentive[:, :, None])  # (T, Q, W, 2h)
        return F.linear(hidden, self.output.weight.chunk(2)[0])

    def terms(
        self, tasks: Tasks, shots: Shots, paths: Paths, *, noise: Tensor | None, reconstruct: bool
    ) -> Terms:
        """Return the parts of the training loss.

        Args:
            tasks: features and labels.
            shots: which support item is of which class.
            paths: of the same tasks.
            noise: standard normal (T, Q, S, D); None draws it.
            reconstruct: whether the reconstruction terms are wanted; else they are 0.
        """
        tasks = tasks._replace(support=self.dropout(tasks.support), query=self.dropout(tasks.query))
        paths = paths._replace(context=shots.member.to(paths.context.dtype).mT @ paths.context)
        queries = tasks.query.shape[1]
        step = max(1, TRAINING_BLOCK // tasks.support.numel())
        logits, sums = [], torch.zeros(4, device=tasks.query.device)
        for start in range(0, queries, step):
            at = slice(start, start + step)
            block = (
                tasks._replace(query=tasks.query[:, at], query_labels=tasks.query_labels[:, at]),
                shots,
                paths._replace(attentive=paths.attentive[:, at]),
                None if noise is None else noise[:, at],
                reconstruct,
            )
            if step < queries and torch.is_grad_enabled():
                found = checkpoint(self._block, *block, use_reentrant=False)
            else:
                found = self._block(*block)
            logits.append(found[0])
            sums = sums + found[1]
        items = shots.valid.sum() * queries
        return Terms(
            torch.cat(logits, 1), sums[0] / tasks.query_labels.numel(), *(sums[1:] / items)
        )

    def _block(
        self, tasks: Tasks, shots: Shots, paths: Paths, noise: Tensor | None, reconstruct: bool
    ) -> tuple[Tensor, Tensor]:
        """Return logits (T, q, W) and the four sums (4,) of one block of queries.

        Features come after dropout; `paths.context` is per support item, (T, S, h).
        """
        shape = (*paths.attentive.shape[:2], *paths.context.shape[1:])  # (T, q, S, h)
        context, attentive = self._spread(paths, shape)
        if noise is None:
            noise = torch.randn(*shape[:3], tasks.support.shape[-1], device=shots.mean.device)
        sampled = self._sample(context, attentive, noise, tasks.ways)  # (T, q, S, D)
        logits, losses = _classification(sampled, tasks, shots)
        if not reconstruct:
            return logits, F.pad(losses, (0, 2))
        if self.detach_paths:
            sampled = self._sample(context.detach(), attentive.detach(), noise, tasks.ways)
        errors = self._reconstruction(sampled, paths, shots)
        return logits, torch.cat([losses, errors])

    def _halves(self, context: Tensor, attentive: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first layer's parts (..., 2h) before they are added."""
        of_context, of_attentive = self.hidden.weight.chunk(2, 1)  # (2h, h) each
        return F.linear(context, of_context), F.linear(attentive, of_attentive)

    def _spread(self, paths: Paths, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return both paths after dropout, apart for every pair (q, S) where that matters."""
        context, attentive = paths.context[:, None], paths.attentive[:, :, None]
        if self.training and self.dropout.p > 0:
            context, attentive = context.expand(shape), attentive.expand(shape)
        return self.dropout(context), self.dropout(attentive)

    def _sample(self, context: Tensor, attentive: Tensor, noise: Tensor, ways: int) -> Tensor:
        """Return mean + deviation * noise, (T, q, S, D) float32."""
        context, attentive = self._halves(context, attentive)
        mean, raw = self.output(F.relu(context + attentive)).float().chunk(2, -1)
        # A deviation of Glorot's for the layer D -> W where the output is 0.
        offset = 1 - math.sqrt(2 / (ways + mean.shape[-1]))
        return torch.addcmul(mean, (raw.exp() - offset).clamp_min(1e-10), noise)

    def _reconstruction(self, sampled: Tensor, paths: Paths, shots: Shots) -> Tensor:
        """Return summed squared errors (2,) of both paths, found again in the weights."""
        valid = shots.valid[:, None].float()  # (T, 1, S)
        targets = (paths.context[:, None], paths.attentive[:, :, None])
        decoders = (self.support_decoder, self.query_decoder)
        errors = [
            (decoder(sampled).float() - target.detach().float()).square().sum(-1)  # (T, q, S)
            for decoder, target in zip(decoders, targets, strict=True)
        ]
        return torch.stack([(error * valid).sum() for error in errors])


def _classification(sampled: Tensor, tasks: Tasks, shots: Shots) -> tuple[Tensor, Tensor]:
    """Return query logits (T, q, W) and both summed cross-entropies (2,), float32."""
    with torch.autocast(sampled.device.type, enabled=False):
        weights = shots.mean[:, None] @ sampled.float()  # (T, q, W, D)
        query, support = tasks.query.float(), tasks.support.float()
        logits = (weights @ query[..., None]).squeeze(-1)  # (T, q, W)
        of_support = weights.flatten(1, 2) @ support.mT  # (T, q * W, S)
        of_support = of_support.reshape(-1, tasks.ways, support.shape[1])  # (T * q, W, S)
        labels = tasks.support_labels.masked_fill(~shots.valid, -1)[:, None]
        labels = labels.expand(-1, logits.shape[1], -1).flatten(0, 1)  # (T * q, S)
        losses = [
            F.cross_entropy(logits.flatten(0, 1), tasks.query_labels.flatten(), reduction="sum"),
            F.cross_entropy(of_support, labels, ignore_index=-1, reduction="sum"),
        ]
        return logits, torch.stack(losses)


def _relu_products(context: Tensor, attentive: Tensor, asked: Tensor) -> Tensor:
    """Return sum over j of relu(context[t, c, j] + attentive[t, q, j]) asked[t, q, j], (T, Q, W).

    Blocks of tasks and queries bound what is alive: (T, W, j), (T, Q, j), (T, Q, j).
    """
    tasks, queries = attentive.shape[:2]
    per_query = context.shape[1] * context.shape[2]
    many = max(1, min(queries, EVALUATION_BLOCK // per_query))
    several = max(1, EVALUATION_BLOCK // (per_query * many))
    blocks = []
    for task in range(0, tasks, several):
        at = slice(task, task + several)
        row = [
            _products(
                context[at], attentive[at, first : first + many], asked[at, first : first + many]
            )
            for first in range(0, queries, many)
        ]
        blocks.append(torch.cat(row, 1))
    return torch.cat(blocks)


def _products(context: Tensor, attentive: Tensor, asked: Tensor) -> Tensor:
    hidden = (context[:, None] + attentive[:, :, None]).relu_()  # (t, q, W, 2h)
    return (hidden @ asked[..., None]).squeeze(-1)
