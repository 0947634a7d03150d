"""Racing: the best of many candidates without answering every episode with each.

All candidates answer a growing prefix of the same sealed episodes. One that is behind beyond
reasonable doubt leaves. The test is a bet against each candidate: that it does worse, on the next
episode, than the candidate that led until then (see `fsl.confidence_sequences`). Against the
truly best candidate no such bet can be expected to gain, whoever leads, so the chance that it is
ever eliminated is at most alpha: whatever the number of candidates, however often one looks.

Letters: C candidates, n episodes of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fsl.confidence_sequences import Wealth, bet, betting_lower_bound, start_wealth
from fsl.errors import ConfigError

Answer = Callable[[list[int], slice], Tensor]
"""(numbers of the candidates still alive, episodes) -> their accuracies (alive, n)."""


class RaceResult(NamedTuple):
    """How a race ended.

    Attributes:
        winner: candidate with the best estimate among those still alive.
        alive: (C,) bool: not eliminated.
        episodes_used: (C,) how many episodes each answered.
        estimates: (C,) mean accuracy over them. Those of different candidates are over different
            episodes, and the winner's is a little too high: it was chosen by it.
        eliminated_at: (C,) episodes after which each was eliminated; 0 for those alive.
        behind: (C,) how far each is behind the truly best candidate at least, with confidence
            1 - alpha for each one; 0 where it may be the best.
        episodes: in the bank.
        alpha: largest chance that the best was eliminated.
    """

    winner: int
    alive: Tensor
    episodes_used: Tensor
    estimates: Tensor
    eliminated_at: Tensor
    behind: Tensor
    episodes: int
    alpha: float

    @property
    def share(self) -> float:
        """Episodes answered, as a share of answering all with every candidate."""
        return int(self.episodes_used.sum()) / (self.episodes * len(self.alive))

    def words(self, names: Sequence[str]) -> str:
        """Two sentences: who is left, and what it cost."""
        left = [names[i] for i in self.alive.nonzero()[:, 0].tolist() if i != self.winner]
        best = f"{names[self.winner]}: {100 * float(self.estimates[self.winner]):.2f} %"
        rest = f"; {len(left)} others may be as good: {', '.join(left)}" if left else ""
        return (
            f"best of {len(names)}: {best} (the truly best was dropped with a chance of at most "
            f"{100 * self.alpha:g} %){rest}. {100 * self.share:.0f} % of the episodes answered"
        )


def race(
    answer: Answer, candidates: int, episodes: int, *, alpha: float = 0.01, block: int = 50
) -> RaceResult:
    """Find the best candidate on the episodes of one bank.

    Args:
        answer: answers consecutive episodes with the candidates that are alive; in [0, 1].
        candidates: C, numbered from 0.
        episodes: in the bank, drawn independently of each other.
        alpha: chance that the best candidate may be eliminated.
        block: episodes between two looks.
    """
    _check(candidates, episodes, alpha, block)
    course = _Course(candidates, alpha)
    for start in range(0, episodes, block):
        if len(course.alive) == 1:
            break
        span = slice(start, min(start + block, episodes))
        course.advance(_checked(answer(course.alive, span), len(course.alive), span))
    return course.result(episodes)


class _Course:
    """The state of a race; rows of `differences` are kept for those still alive."""

    def __init__(self, candidates: int, alpha: float) -> None:
        self.alpha = alpha
        self.alive = list(range(candidates))
        self.done = 0
        self.wealth = start_wealth(candidates)
        self.totals = torch.zeros(candidates, dtype=torch.float64)
        self.differences = torch.zeros(candidates, 0, dtype=torch.float64)
        self.used = torch.zeros(candidates, dtype=torch.int64)
        self.eliminated_at = torch.zeros(candidates, dtype=torch.int64)
        self.behind = torch.zeros(candidates, dtype=torch.float64)

    def advance(self, answers: Tensor) -> None:
        """Take the answers (alive, n) of those alive, and eliminate."""
        before = self.totals[self.alive, None] + answers.cumsum(1) - answers  # (alive, n)
        leaders = before.argmax(0, keepdim=True)  # (1, n) known before each episode
        differences = answers.gather(0, leaders) - answers
        self.differences = torch.cat([self.differences, differences], 1)
        self.wealth, logs = bet(self.wealth, differences)
        self.totals[self.alive] += answers.sum(1)
        self.done += answers.shape[1]
        self.used[self.alive] = self.done
        lost = logs.amax(1) >= -math.log(self.alpha)
        lost[self.totals[self.alive].argmax()] = False  # somebody has to win
        if bool(lost.any()):
            self._eliminate(lost)

    def _eliminate(self, lost: Tensor) -> None:
        numbers = torch.tensor(self.alive)
        gone = numbers[lost]
        self.eliminated_at[gone] = self.done
        bounds = betting_lower_bound(self.differences[lost], self.alpha)
        self.behind[gone] = bounds.clamp_min(0)
        self.alive = numbers[~lost].tolist()
        self.differences = self.differences[~lost]
        seen, *parts = self.wealth
        self.wealth = Wealth(seen, *(part[~lost] for part in parts))

    def result(self, episodes: int) -> RaceResult:
        """What is known at the end."""
        alive = torch.zeros(len(self.used), dtype=torch.bool)
        alive[self.alive] = True
        estimates = self.totals / self.used
        winner = int(torch.where(alive, estimates, -1.0).argmax())
        return RaceResult(
            winner,
            alive,
            self.used,
            estimates,
            self.eliminated_at,
            self.behind,
            episodes,
            self.alpha,
        )


def _check(candidates: int, episodes: int, alpha: float, block: int) -> None:
    if candidates < 2 or episodes < 1 or block < 1:
        raise ConfigError(
            "a race needs at least 2 candidates, 1 episode and a block of 1, got "
            f"{candidates}, {episodes} and {block}"
        )
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha must lie between 0 and 1, got {alpha}")


def _checked(answers: Tensor, alive: int, span: slice) -> Tensor:
    """The answers in float64, or what is wrong with them."""
    wanted = (alive, span.stop - span.start)
    if answers.shape != wanted:
        raise ConfigError(f"answers have the shape {tuple(answers.shape)}, expected {wanted}")
    if not bool(((answers >= 0) & (answers <= 1)).all()):
        raise ConfigError(
            f"episodes {span.start} to {span.stop - 1}: answers must be accuracies in [0, 1]"
        )
    return answers.double().cpu()
