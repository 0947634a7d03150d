"""How often do the intervals cover the truth about classes that were not drawn?

    python benchmarks/class_interval_coverage.py [--studies 400] [--bootstrap 100]

A study draws C classes from a population, episodes from those classes, and answers of two models
to 15 queries per way. The truth is the mean accuracy (or the mean difference of the models) over
classes drawn anew for every episode. Two populations: `difficulty` (each class has its own chance
of being right and its own pull as a wrong answer, both changed at random by the second model) and
`points` (classes are points; near ones are confused with each other, the second model sees more
dimensions). A 95 % interval should cover in 95 % of the studies; 400 studies know that to ± 2 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fsl.metrics import mean_ci95
from fsl.statistics import class_bootstrap, class_interval

EPISODES, QUERIES = 2000, 15
SETTINGS = ((20, 5), (20, 15), (20, 20), (83, 5), (83, 20))  # classes, ways
INTERVALS = ("over episodes", "class_interval", "bootstrap")


class Population(NamedTuple):
    """What classes are like, and how two models answer them."""

    name: str
    draw: Callable[[int, torch.Generator], Tensor]  # -> (C, Z)
    chances: Callable[[Tensor], Tensor]  # (E, W, Z) -> (2, E, W) chance that a query is right


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def difficulties(count: int, generator: torch.Generator) -> Tensor:
    ease, pull = 0.8 * normal(generator, count), 0.5 * normal(generator, count)
    later_ease = ease + 0.3 + 0.35 * normal(generator, count)
    later_pull = pull + 0.3 * normal(generator, count)
    return torch.stack([ease, pull, later_ease, later_pull], -1)


def difficulty_chances(classes: Tensor) -> Tensor:
    ease, pull = classes[..., 0::2].movedim(-1, 0), classes[..., 1::2].movedim(-1, 0)  # (2, E, W)
    weight = pull.exp()
    others = weight.sum(-1, keepdim=True) - weight
    return torch.sigmoid(3 + ease - others.log())


def points(count: int, generator: torch.Generator) -> Tensor:
    return normal(generator, count, 6)


def point_chances(classes: Tensor) -> Tensor:
    seen = classes[..., :4], torch.cat([1.15 * classes[..., :4], 0.8 * classes[..., 4:]], -1)
    return torch.stack([1 / torch.exp(-torch.cdist(x, x).square() / 4).sum(-1) for x in seen])


POPULATIONS = (
    Population("difficulty", difficulties, difficulty_chances),
    Population("points", points, point_chances),
)


def answers(chances: Tensor, generator: torch.Generator) -> Tensor:
    """Accuracies (2, E, W); the support images shift a way's chance, partly alike for both."""
    shared, own = normal(generator, *chances.shape[1:]), normal(generator, *chances.shape)
    shifted = torch.sigmoid(torch.logit(chances, eps=1e-9) + 0.4 * shared + 0.2 * own)
    return torch.binomial(torch.full_like(shifted, QUERIES), shifted, generator=generator) / QUERIES


def truth(population: Population, ways: int, generator: torch.Generator) -> tuple[float, float]:
    """Mean accuracy and mean difference over episodes of classes drawn anew."""
    totals = []
    for _ in range(40):
        classes = population.draw(5000 * ways, generator).view(5000, ways, -1)
        totals.append(answers(population.chances(classes), generator).mean((1, 2)))
    first, second = torch.stack(totals).mean(0).tolist()
    return first, second - first


def study(
    population: Population, count: int, ways: int, resamples: int, generator: torch.Generator
) -> Tensor:
    """Mean and half-widths of both questions, (2, 1 + intervals)."""
    embedding = population.draw(count, generator)
    classes = torch.rand(EPISODES, count, generator=generator).argsort(-1)[:, :ways]
    given = answers(population.chances(embedding[classes]), generator)  # (2, E, W)
    rows = []
    for way_values in (given[0], given[1] - given[0]):
        values = way_values.mean(-1)
        plain, over = mean_ci95(values), class_interval(values, classes, way_values)
        boot = math.nan
        if resamples and ways == 5:
            boot = class_bootstrap(values, classes, resamples, generator).half_width
        rows.append([plain.mean, plain.half_width, over.half_width, boot])
    return torch.tensor(rows, dtype=torch.float64)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--bootstrap", type=int, default=100, help="resamples, 5-way only; 0: none")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    print("| population | classes | ways | question | " + " | ".join(INTERVALS) + " |")
    print("|---" * (4 + len(INTERVALS)) + "|")
    for population in POPULATIONS:
        for count, ways in SETTINGS:
            wanted = truth(population, ways, generator)
            found = torch.stack(
                [
                    study(population, count, ways, args.bootstrap, generator)
                    for _ in range(args.studies)
                ]
            )  # (studies, 2, 1 + intervals)
            for row, question in enumerate(("mean", "difference")):
                miss = (found[:, row, :1] - wanted[row]).abs()
                covered = (miss < found[:, row, 1:]).double().mean(0)
                width = found[:, row, 1:].mean(0)
                cells = [
                    "" if math.isnan(w) else f"{100 * c:.1f} % (± {100 * w:.2f})"
                    for c, w in zip(covered.tolist(), width.tolist(), strict=True)
                ]
                line = [population.name, str(count), str(ways), question, *cells]
                print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
