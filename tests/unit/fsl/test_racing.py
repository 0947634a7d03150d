"""Races keep the best candidate, save episodes, and ask only those alive."""

import pytest
import torch
from torch import Tensor

from fsl.errors import ConfigError
from fsl.racing import race


class Recorded:
    """Answers from a table (C, E); notes what was asked."""

    def __init__(self, answers: Tensor) -> None:
        self.answers = answers
        self.asked: list[tuple[list[int], slice]] = []

    def __call__(self, alive: list[int], episodes: slice) -> Tensor:
        self.asked.append((list(alive), episodes))
        return self.answers[alive, episodes]


def accuracies(truths: Tensor, episodes: int, seed: int, queries: int = 25) -> Tensor:
    """(C, E): the candidates share how hard an episode is."""
    generator = torch.Generator().manual_seed(seed)
    hard = 0.4 * torch.randn(episodes, generator=generator)
    chances = torch.sigmoid(torch.logit(truths)[:, None] + hard)
    counts = torch.full_like(chances, queries)
    return torch.binomial(counts, chances, generator=generator) / queries


def test_the_best_of_many_is_found_with_a_fifth_of_the_episodes() -> None:
    shares = []
    for seed in range(10):
        generator = torch.Generator().manual_seed(100 + seed)
        truths = 0.5 + 0.05 * torch.randn(24, generator=generator)
        result = race(Recorded(accuracies(truths, 1000, seed)), 24, 1000)
        assert result.alive[truths.argmax()]
        shares.append(result.share)
    assert sum(shares) / len(shares) < 0.2


def test_only_those_alive_are_asked_and_blocks_follow_each_other() -> None:
    answers = Recorded(accuracies(torch.linspace(0.3, 0.7, 8), 330, seed=0))
    result = race(answers, 8, 330, block=40)
    starts = [span.start for _, span in answers.asked]
    assert starts == list(range(0, 40 * len(starts), 40))
    asked = torch.zeros(8, dtype=torch.int64)
    for alive, span in answers.asked:
        asked[alive] += span.stop - span.start
    assert torch.equal(asked, result.episodes_used)
    assert result.share == pytest.approx(float(asked.sum()) / (8 * 330))
    gone = ~result.alive
    assert torch.equal(result.eliminated_at[gone], asked[gone])
    assert not result.eliminated_at[result.alive].any()


def test_estimates_are_means_over_the_episodes_answered() -> None:
    table = accuracies(torch.linspace(0.3, 0.7, 6), 300, seed=1)
    result = race(Recorded(table), 6, 300)
    for number, used in enumerate(result.episodes_used.tolist()):
        assert float(result.estimates[number]) == pytest.approx(float(table[number, :used].mean()))
    assert result.winner == int(torch.where(result.alive, result.estimates, -1).argmax())


def test_candidates_as_good_as_the_best_are_rarely_eliminated() -> None:
    alpha, runs, lost = 0.2, 150, 0
    for seed in range(runs):
        table = accuracies(torch.full((4,), 0.9), 300, seed, queries=1)  # answers of 0 and 1
        result = race(Recorded(table), 4, 300, alpha=alpha, block=10)
        lost += int(not result.alive[0])
    assert lost / runs <= alpha


def test_a_leader_that_falls_back_can_still_be_eliminated() -> None:
    table = torch.full((2, 400), 0.5)
    table[0, :40], table[0, 40:] = 0.6, 0.3
    result = race(Recorded(table), 2, 400, block=20)
    assert result.winner == 1
    assert not result.alive[0]


def test_how_far_behind_is_a_bound_that_rarely_fails() -> None:
    truths, wrong = torch.tensor([0.7, 0.6, 0.5]), 0
    for seed in range(40):
        behind = race(Recorded(accuracies(truths, 400, seed)), 3, 400, alpha=0.05).behind
        assert behind[0] == 0
        assert behind[2] > 0
        wrong += int((behind > 0.7 - truths).any())
    assert wrong <= 4


def test_the_race_ends_when_one_is_left() -> None:
    answers = Recorded(torch.stack([torch.full((500,), 0.9), torch.full((500,), 0.1)]))
    result = race(answers, 2, 500, block=10)
    assert len(answers.asked) < 5
    assert result.words(["good", "bad"]).startswith("best of 2: good: 90.00 %")


def test_equal_candidates_all_stay_and_the_words_say_so() -> None:
    result = race(Recorded(torch.full((3, 100), 0.5)), 3, 100)
    assert result.alive.all()
    assert "2 others may be as good: b, c" in result.words("abc")
    assert "100 % of the episodes answered" in result.words("abc")


def test_bad_races_are_refused() -> None:
    answers = Recorded(torch.rand(3, 50))
    with pytest.raises(ConfigError, match="at least 2 candidates"):
        race(answers, 1, 50)
    with pytest.raises(ConfigError, match="alpha must lie between 0 and 1, got 0"):
        race(answers, 3, 50, alpha=0)
    with pytest.raises(ConfigError, match=r"shape \(2, 50\), expected \(3, 50\)"):
        race(lambda alive, span: torch.rand(2, 50), 3, 50)
    with pytest.raises(ConfigError, match="episodes 0 to 49: answers must be accuracies"):
        race(lambda alive, span: torch.full((3, 50), float("nan")), 3, 50)
    with pytest.raises(ConfigError, match="must be accuracies"):
        race(lambda alive, span: torch.full((3, 50), 61.3), 3, 50)
