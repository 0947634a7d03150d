"""The CrossTransformers head: prototypes, logits, losses and gradients, whole and in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.modules.query_attention import (
    CrossTransformerHead,
    aligned_prototypes,
    class_cells,
    query_distances,
    shot_groups,
)

if TYPE_CHECKING:
    Archive = Any

WHOLE, PARTS = 2**40, 1
"""Size limits: all at once, or one query at a time, computed again in the backward pass."""


class Case:
    """Head, inputs and results of an archive; grids are flattened to positions."""

    def __init__(self, archive: Archive) -> None:
        keys, values = archive["in/Wk"], archive["in/Wv"]  # (D, dk), (D, dv)
        self.head = CrossTransformerHead(len(keys), keys.shape[1], values.shape[1])
        with torch.no_grad():
            self.head.keys.weight.copy_(keys.T)
            self.head.values.weight.copy_(values.T)
        self.support = archive["in/support"].flatten(1, 2).requires_grad_()  # (S, P, D)
        self.query = archive["in/query"].flatten(1, 2).requires_grad_()  # (Q, p, D)
        self.labels = archive["in/support_label"]
        self.targets = archive["in/query_label"]
        self.ways = int(self.labels.max()) + 1
        self.key_dim = keys.shape[1]

    def encoded(self) -> tuple[Tensor, Tensor]:
        """Keys and values with a task axis."""
        return self.head(self.support)[None], self.head(self.query)[None]

    def logits(self, part_floats: int) -> Tensor:
        support, query = self.encoded()
        limits = {"key_dim": self.key_dim, "part_floats": part_floats}
        return -query_distances(support, self.labels[None], query, self.ways, **limits)[0]

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        leaves = {
            "Wk": self.head.keys.weight,
            "Wv": self.head.values.weight,
            "support": self.support,
            "query": self.query,
        }
        found = dict(zip(leaves, torch.autograd.grad(loss, [*leaves.values()]), strict=True))
        return {name: g.T if name in {"Wk", "Wv"} else g for name, g in found.items()}


@pytest.mark.archive("ctx.head")
def test_query_aligned_prototypes(archive: Archive) -> None:
    case = Case(archive)
    support, query = case.encoded()
    groups, columns = shot_groups(case.labels[None], case.ways)
    laid = [
        aligned_prototypes(
            query[..., : case.key_dim], *class_cells(support, group, case.key_dim), group.valid
        )
        for group in groups
    ]
    prototypes = torch.cat(laid, 1)[0, columns[0]]  # (W, Q, p, dv)
    expected = archive["query_aligned_prototypes"].flatten(2, 3)
    torch.testing.assert_close(prototypes, expected, rtol=1e-5, atol=1e-5 * size(expected))


@pytest.mark.archive("ctx.head")
@pytest.mark.parametrize("part_floats", [WHOLE, PARTS])
def test_logits_and_losses(archive: Archive, part_floats: int) -> None:
    case = Case(archive)
    logits = case.logits(part_floats)
    expected = archive["logits"]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=0)
    # Differences of logits: as exact as the largest of them.
    atol = 1e-5 * max(1.0, size(expected))
    losses = F.cross_entropy(logits, case.targets, reduction="none")
    torch.testing.assert_close(losses, archive["loss_per_query"], rtol=1e-5, atol=atol)
    torch.testing.assert_close(losses.mean(), archive["loss"], rtol=1e-5, atol=atol)


@pytest.mark.archive("ctx.head")
@pytest.mark.parametrize("part_floats", [WHOLE, PARTS])
def test_gradients(archive: Archive, part_floats: int) -> None:
    case = Case(archive)
    gradients = case.gradients(F.cross_entropy(case.logits(part_floats), case.targets))
    expected = {name: g.flatten(1, -2) if g.dim() == 4 else g for name, g in grads(archive).items()}
    for name, value in expected.items():
        atol = rounding(archive, name)
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=atol, msg=name)


@pytest.mark.archive("ctx.head")
def test_the_memory_saving_path_of_the_original(archive: Archive) -> None:
    remat = archive.under("remat/")
    if not remat:
        pytest.skip("this archive has no recomputed results")
    case = Case(archive)
    logits = case.logits(PARTS)
    torch.testing.assert_close(logits, remat["logits"], rtol=1e-5, atol=0)
    gradients = case.gradients(F.cross_entropy(logits, case.targets))
    for name in ("Wk", "query"):
        expected = remat[f"grad_{name}"]
        expected = expected.flatten(1, -2) if expected.dim() == 4 else expected
        atol = rounding(archive, name)
        torch.testing.assert_close(gradients[name], expected, rtol=1e-4, atol=atol, msg=name)


def rounding(archive: Archive, name: str) -> float:
    """Absolute tolerance of a gradient.

    Fused kernels compute exp(score - log-sum) again in the backward pass, so the weights are only
    as exact as scores of hundreds are. And the keys' gradient is a difference, of zero where
    attention is one-hot: it counts by the size of what enters it, the values' gradient.
    """
    return 3e-5 * size(archive["grad/Wv" if name == "Wk" else f"grad/{name}"])


def grads(archive: Archive) -> dict[str, Tensor]:
    found: dict[str, Tensor] = archive.under("grad/")
    assert found
    return found


def size(values: Tensor) -> float:
    return values.abs().max().item()
