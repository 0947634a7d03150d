"""AWGIM's paths and weight generator against slow, obvious versions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.modules import weight_generator
from fsl.modules.information_attention import (
    AttentionBlock,
    InformationPaths,
    NormKind,
    Shots,
    TaskNorm,
)
from fsl.modules.weight_generator import Tasks, Terms, WeightGenerator

D, H = 10, 8
UNEQUAL = torch.tensor([[2, 0, 1, 2, 2, 1], [1, 2, 2, 0, 2, 2]])


def networks(
    dropout: float = 0.0, norm: NormKind = "token", **options: Any
) -> tuple[InformationPaths, WeightGenerator]:
    torch.manual_seed(0)
    paths = InformationPaths(D, H, heads=2, dropout=dropout, norm=norm)
    with torch.no_grad():
        for parameter in paths.parameters():
            if parameter.ndim == 1:  # gains and offsets
                parameter.add_(0.1 * torch.randn(H))
    return paths, WeightGenerator(D, H, dropout, **options)


def some_tasks(labels: Tensor = UNEQUAL, queries: int = 5, ways: int = 3) -> Tasks:
    generator = torch.Generator().manual_seed(1)
    tasks, items = labels.shape
    return Tasks(
        torch.randn(tasks, items, D, generator=generator),
        labels,
        torch.randn(tasks, queries, D, generator=generator),
        torch.randint(ways, (tasks, queries), generator=generator),
        ways,
    )


def terms_of(
    paths: InformationPaths, generator: WeightGenerator, tasks: Tasks, noise: Tensor | None
) -> Terms:
    shots = Shots.of(tasks.support_labels, tasks.ways)
    made = paths(tasks.support, shots, tasks.query)
    return generator.terms(tasks, shots, made, noise=noise, reconstruct=True)


def total(terms: Terms) -> Tensor:
    return terms.query + terms.support + terms.support_reconstruction + terms.query_reconstruction


def gradients(*modules: torch.nn.Module) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": parameter.grad
        for number, module in enumerate(modules)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def slow_block(block: AttentionBlock, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One task, (n, h) and (m, h): a loop over heads, projections added up."""
    added = q
    for head in range(block.heads):
        wq, wk, wv, wo = (
            part.heads[head] for part in (block.query, block.key, block.value, block.out)
        )
        scores = (q @ wq.T) @ (k @ wk.T).T / math.sqrt(len(wq))
        added = added + scores.softmax(-1) @ (v @ wv.T) @ wo.T
    x = F.layer_norm(added, (H,), block.norm.gain, block.norm.offset, 1e-12)
    added = x + block.mlp(x)
    return F.layer_norm(added, (H,), block.mlp_norm.gain, block.mlp_norm.offset, 1e-12)


def slow_sample(
    generator: WeightGenerator, context: Tensor, attentive: Tensor, noise: Tensor, ways: int
) -> Tensor:
    """Weights (D,) of one query and support item, from vectors (h,)."""
    output: Tensor = generator.output(F.relu(generator.hidden(torch.cat([context, attentive]))))
    glorot = math.sqrt(2 / (ways + D))
    return output[:D] + (output[D:].exp() - (1 - glorot)).clamp_min(1e-10) * noise


def slow_terms(
    paths: InformationPaths, generator: WeightGenerator, tasks: Tasks, noise: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the four terms, with loops over tasks, classes, queries and items."""
    logits, ways = [], tasks.ways
    parts: list[list[Tensor]] = [[], [], [], []]
    for task, labels in enumerate(tasks.support_labels.tolist()):
        support, query = tasks.support[task], tasks.query[task]
        of_class = [[i for i, label in enumerate(labels) if label == c] for c in range(ways)]
        keys, asked = paths.attentive_encoder(support), paths.attentive_encoder(query)
        inner = slow_block(paths.attentive_support, keys, keys, keys)
        values = torch.stack([inner[of_class[label]].mean(0) for label in labels])
        attentive = slow_block(paths.attentive_query, asked, keys, values)
        encoded = paths.context_encoder(support)
        inner = slow_block(paths.context_support, encoded, encoded, encoded)
        context = torch.stack([inner[of_class[label]].mean(0) for label in labels])
        for q in range(len(query)):
            sampled = torch.stack(
                [
                    slow_sample(generator, context[i], attentive[q], noise[task, q, i], ways)
                    for i in range(len(labels))
                ]
            )
            weights = torch.stack([sampled[items].mean(0) for items in of_class])
            logits.append(weights @ query[q])
            parts[0].append(F.cross_entropy(logits[-1], tasks.query_labels[task, q]))
            for i, label in enumerate(labels):
                parts[1].append(F.cross_entropy(weights @ support[i], torch.tensor(label)))
                found = generator.support_decoder(sampled[i]), generator.query_decoder(sampled[i])
                parts[2].append((found[0] - context[i].detach()).square().sum())
                parts[3].append((found[1] - attentive[q].detach()).square().sum())
    stacked = torch.stack(logits).reshape(*tasks.query_labels.shape, ways)
    return stacked, [torch.stack(values).mean() for values in parts]


def test_terms_and_gradients_equal_loops_with_unequal_shots() -> None:
    paths, generator = networks()
    tasks = some_tasks(queries=3)
    noise = torch.randn(2, 3, 6, D)
    terms = terms_of(paths, generator, tasks, noise)
    total(terms).backward()  # type: ignore[no-untyped-call]
    found = gradients(paths, generator)
    paths.zero_grad()
    generator.zero_grad()
    logits, parts = slow_terms(paths, generator, tasks, noise)
    torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(terms.logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.stack(terms[1:]), torch.stack(parts), rtol=1e-5, atol=0)
    assert found.keys() == gradients(paths, generator).keys()
    for name, expected in gradients(paths, generator).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("block", [1, 50, 2**20])
@pytest.mark.parametrize("norm", ["token", "episode"])
def test_folded_logits_equal_those_of_the_weights_themselves(
    norm: NormKind, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_generator, "EVALUATION_BLOCK", block)
    paths, generator = networks(dropout=0.5, norm=norm)
    tasks = some_tasks()
    shots = Shots.of(tasks.support_labels, tasks.ways)
    made = paths.eval()(tasks.support, shots, tasks.query)
    folded = generator.eval().logits(made, tasks.query)
    plain = torch.einsum("tqwd,tqd->tqw", generator.weights(made), tasks.query)
    torch.testing.assert_close(folded, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(folded.argmax(-1), plain.argmax(-1))
    mean = terms_of(paths, generator, tasks, torch.zeros(2, 5, 6, D))
    torch.testing.assert_close(folded, mean.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["token", "episode"])
def test_padding_changes_nothing(norm: NormKind) -> None:
    paths, generator = networks(norm=norm)
    tasks = some_tasks()
    place = torch.tensor([0, 6, 1, 2, 3, 7, 4, 5])
    padded = tasks._replace(
        support=torch.cat([tasks.support, torch.full((2, 2, D), 9.0)], 1)[:, place],
        support_labels=torch.cat([UNEQUAL, torch.full((2, 2), -1)], 1)[:, place],
    )
    noise = torch.randn(2, 5, 8, D)
    terms = terms_of(paths, generator, tasks, noise[:, :, :6])
    other = terms_of(paths, generator, padded, noise[:, :, place])
    for value, expected in zip(other, terms, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_blocks_computed_again_in_backward_give_the_same_gradients(
    dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(block: int) -> tuple[Tensor, dict[str, Tensor]]:
        monkeypatch.setattr(weight_generator, "TRAINING_BLOCK", block)
        paths, generator = networks(dropout)
        torch.manual_seed(3)
        loss = total(terms_of(paths, generator, some_tasks(), noise))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss, gradients(paths, generator)

    noise = torch.randn(2, 5, 6, D) if dropout == 0 else None
    blocks = run(2 * some_tasks().support.numel())
    if dropout == 0:
        expected = run(2**24)
    else:  # other blocks draw other noise: compare with the same blocks kept for backward

        def keep(function: Any, *arguments: Any, use_reentrant: bool) -> Any:
            return function(*arguments)

        monkeypatch.setattr(weight_generator, "checkpoint", keep)
        expected = run(2 * some_tasks().support.numel())
    torch.testing.assert_close(blocks, expected, rtol=1e-5, atol=1e-6)


def test_detached_paths_learn_nothing_from_reconstruction_but_all_else_does() -> None:
    found = []
    for detach in (False, True):
        paths, generator = networks(0.3, detach_paths=detach)
        torch.manual_seed(3)
        terms = terms_of(paths, generator, some_tasks(), None)
        (terms.support_reconstruction + terms.query_reconstruction).backward()  # type: ignore[no-untyped-call]
        found.append((gradients(paths), gradients(generator)))
    (into_paths, released), (detached, paper) = found
    assert all(value.any() for name, value in into_paths.items() if "query" not in name)
    assert not any(value.any() for value in detached.values())
    torch.testing.assert_close(paper, released)


def test_an_output_of_zero_gives_glorot_deviation() -> None:
    _, generator = networks()
    torch.nn.init.zeros_(generator.output.weight)
    noise = torch.randn(2, 5, 6, D)
    zeros = torch.zeros(2, 5, 6, H)
    sampled = generator._sample(zeros, zeros, noise, 3)
    torch.testing.assert_close(sampled, math.sqrt(2 / (3 + D)) * noise)


def test_items_of_a_class_draw_their_own_dropout() -> None:
    paths, generator = networks(0.5)
    tasks = some_tasks(torch.tensor([[0, 0, 1, 1]]), ways=2)
    same = tasks._replace(support=tasks.support[:, :1].expand(-1, 4, -1))
    shots = Shots.of(same.support_labels, 2)
    made = paths.eval()(same.support, shots, same.query)
    context, attentive = generator._spread(
        made._replace(context=shots.member.mT @ made.context), (1, 5, 4, H)
    )
    for x in (context, attentive):
        assert not torch.equal(x[:, :, 0], x[:, :, 1])
        assert not torch.equal(x[:, 0], x[:, 1])


def test_episode_norm_normalises_all_vectors_of_a_task_together() -> None:
    norm = TaskNorm(H, "episode")
    x, valid = torch.randn(2, 4, H), torch.ones(2, 4, dtype=torch.bool)
    torch.testing.assert_close(norm(x, valid), F.layer_norm(x, (4, H), eps=1e-12))
    valid[0, 3] = False
    expected = F.layer_norm(x[:1, :3], (3, H), eps=1e-12)
    torch.testing.assert_close(norm(x, valid)[:1, :3], expected)


def test_evaluation_under_autocast_stays_close_and_float32() -> None:
    paths, generator = networks()
    tasks = some_tasks()
    shots = Shots.of(tasks.support_labels, tasks.ways)
    made = paths(tasks.support, shots, tasks.query)
    expected = generator.logits(made, tasks.query)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = generator.logits(paths(tasks.support, shots, tasks.query), tasks.query)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(
        logits, expected, rtol=0, atol=0.05 * expected.detach().abs().max().item()
    )
