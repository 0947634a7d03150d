"""Batched evaluation against an obvious loop over episodes: the same answers, in what time?

    python benchmarks/evaluation_speed.py [--episodes 200] [--rounds 3]

20 classes of 600 images, 768 features, 5-way, all remaining images as queries (the paper's
protocol). The loop is what a user would write; both are run in turns and compared in CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.cosine_classifier import (
    EPISODES_PER_BLOCK,
    classifier_inputs,
    classifier_scores,
    random_start,
)
from fsl.evaluation import prototype_accuracies

CLASSES, IMAGES, WIDTH, WAYS = 20, 600, 768, 5


def main() -> None:
    """Print times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--classifier-episodes", type=int, default=20, help="the loop is slow")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    centres = 0.1 * torch.randn(CLASSES, WIDTH, generator=generator)
    features = centres[labels] + 0.5 * torch.randn(len(labels), WIDTH, generator=generator)
    for shots in (1, 5):
        support = episodes(EPISODES_PER_BLOCK, shots, generator)
        few, fewer = support[: args.episodes], support[: args.classifier_episodes]
        compare(
            f"prototype {shots}-shot",
            (partial(prototype_accuracies, features, labels, few), len(few)),
            (partial(prototype_loop, features, labels, few), len(few)),
            args.rounds,
        )
        compare(
            f"classifier {shots}-shot",
            (partial(classifier_batched, features, labels, support), len(support)),
            (partial(classifier_loop, features, labels, fewer), len(fewer)),
            args.rounds,
        )


def compare(
    name: str,
    ours: tuple[Callable[[], Tensor], int],
    loop: tuple[Callable[[], Tensor], int],
    rounds: int,
) -> None:
    """Run both in turns; print milliseconds per episode, the ratio, and the largest difference."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        fast, batched = timed(*ours)
        slow, looped = timed(*loop)
        times.append((fast, slow))
    fast, slow = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(slow / fast for fast, slow in times)
    count = min(len(batched), len(looped))
    gap = (batched[:count] - looped[:count]).abs().max()
    print(
        f"{name}: {1000 * fast:.3f} ms per episode, loop {1000 * slow:.2f} ms, "
        f"{ratio:.0f} times as fast; 10,000 episodes in {10_000 * fast:.0f} s; "
        f"largest difference {100 * gap:.3f} points"
    )


def timed(run: Callable[[], Tensor], count: int) -> tuple[float, Tensor]:
    """Return CPU seconds per episode and the result."""
    start = time.process_time()
    result = run()
    return (time.process_time() - start) / count, result


def episodes(count: int, shots: int, generator: torch.Generator) -> Tensor:
    """Support rows (E, W, k)."""
    classes = torch.rand(count, CLASSES, generator=generator).argsort(-1)[:, :WAYS]
    images = torch.rand(count, WAYS, IMAGES, generator=generator).argsort(-1)[..., :shots]
    return classes[..., None] * IMAGES + images


def queries_of(labels: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """All other rows of the classes of one episode, and their ways."""
    rows, ways = [], []
    for way, own in enumerate(support):
        members = (labels == labels[own[0]]).nonzero()[:, 0]
        others = members[~torch.isin(members, own)]
        rows.append(others)
        ways.append(torch.full_like(others, way))
    return torch.cat(rows), torch.cat(ways)


def prototype_loop(features: Tensor, labels: Tensor, support: Tensor) -> Tensor:
    """One episode after the other."""
    accuracies = []
    for rows in support:
        query, ways = queries_of(labels, rows)
        means = F.normalize(features[rows].mean(1), dim=-1)
        predicted = (F.normalize(features[query], dim=-1) @ means.mT).argmax(-1)
        accuracies.append((predicted == ways).double().mean())
    return torch.stack(accuracies)


def classifier_batched(features: Tensor, labels: Tensor, support: Tensor) -> Tensor:
    """All episodes at once."""
    return classifier_scores(features, labels, support).accuracies


def classifier_loop(features: Tensor, labels: Tensor, support: Tensor) -> Tensor:
    """One episode after the other, trained by torch's own optimizer from the same start."""
    inputs = classifier_inputs(features)
    start = random_start(0, support, WIDTH, seed=0, kind="cosine", epochs=301)
    shots = support.shape[2]
    accuracies = []
    for number, rows in enumerate(support):
        layer = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WAYS, bias=False), dim=0)
        layer.parametrizations.weight.original0.data = start.gains[number][:, None].clone()
        layer.parametrizations.weight.original1.data = start.weights[number].clone()
        sgd = torch.optim.SGD(
            layer.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=1e-3
        )
        for order in start.orders[:, number]:
            for batch in torch.split(order, 4):
                shown = inputs[rows.flatten()[batch]]
                loss = F.cross_entropy(2 * layer(shown), batch // shots)
                sgd.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                sgd.step()
        query, ways = queries_of(labels, rows)
        predicted = layer(inputs[query]).argmax(-1)
        accuracies.append((predicted == ways).double().mean())
    return torch.stack(accuracies)


if __name__ == "__main__":
    main()
