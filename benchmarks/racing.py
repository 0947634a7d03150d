"""What a race over many candidates saves, and whether it ever loses the best.

    python benchmarks/racing.py [--races 1000] [--candidates 24] [--episodes 2000]

Each race draws the candidates' true accuracies from a normal distribution around 55 % and lets them
answer the same episodes (75 queries; an episode is harder or easier for all, and a little for each
candidate by itself). `wide` is an early search over hyper-parameters, `realistic` candidates that
are all sensible, `near-equal` seeds of one recipe, `equal` none better than another. "Lost": the
truly best candidate was eliminated; "same winner": the race chose what answering everything would
have chosen; "regret": points of true accuracy between the chosen candidate and the best one.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

from fsl.racing import race

QUERIES, MEAN = 75, 0.55
SHARED, OWN = 0.35, 0.25  # of the log odds
SPREADS = {"wide": 0.06, "realistic": 0.03, "near-equal": 0.003, "equal": 0.0}


def bank(truths: Tensor, episodes: int, generator: torch.Generator) -> Tensor:
    """Accuracies (C, E) of candidates with the given mean accuracies (C,)."""
    shared = torch.randn(episodes, generator=generator)
    own = torch.randn(len(truths), episodes, generator=generator)
    chances = torch.sigmoid(torch.logit(truths)[:, None] + SHARED * shared + OWN * own)
    counts = torch.full_like(chances, QUERIES)
    return torch.binomial(counts, chances, generator=generator).double() / QUERIES


def replay(answers: Tensor, alive: list[int], span: slice) -> Tensor:
    return answers[alive, span]


def races(
    spread: float, candidates: int, episodes: int, number: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Share, lost, same winner and regret of each race, (races, 4), and the paired deviations."""
    generator = torch.Generator().manual_seed(0)
    rows, deviations = [], []
    for _ in range(number):
        truths = MEAN + spread * torch.randn(candidates, generator=generator).clamp(-4, 4)
        answers = bank(truths, episodes, generator)
        result = race(partial(replay, answers), candidates, episodes, alpha=alpha)
        best = int(truths.argmax())
        same = result.winner == int(answers.mean(1).argmax())
        regret = float(truths[best] - truths[result.winner])
        rows.append([result.share, float(not result.alive[best]), float(same), regret])
        deviations.append((answers[0] - answers[1]).std())
    return torch.tensor(rows), torch.stack(deviations)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--races", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--alpha", type=float, default=0.01)
    args = parser.parse_args()
    torch.set_num_threads(1)
    heads = "candidates", "episodes answered", "nine of ten races", "lost", "same winner", "regret"
    print(f"| {' | '.join(heads)} |\n" + "|---" * len(heads) + "|")
    for name, spread in SPREADS.items():
        rows, deviations = races(spread, args.candidates, args.episodes, args.races, args.alpha)
        share, lost, same, regret = rows.mean(0).tolist()
        cells = [
            f"{name} (± {100 * spread:g} points)",
            f"{100 * share:.1f} %",
            f"below {100 * float(rows[:, 0].quantile(0.9)):.0f} %",
            f"{100 * lost:.2f} %",
            f"{100 * same:.1f} %",
            f"{100 * regret:.2f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(
        f"\n{args.candidates} candidates, {args.episodes} episodes, {args.races} races each, alpha "
        f"{args.alpha:g}; standard deviation of a paired difference {100 * deviations.mean():.1f} "
        "points"
    )


if __name__ == "__main__":
    main()
