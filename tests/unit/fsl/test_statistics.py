"""Paired differences and intervals over classes: calibrated, and never falsely narrow."""

import math

import pytest
import torch
from torch import Tensor

from fsl.errors import ConfigError
from fsl.metrics import mean_ci95
from fsl.statistics import (
    PairedDifference,
    class_accuracies,
    class_bootstrap,
    class_interval,
    paired_difference,
    student_t,
)


def test_paired_interval_is_much_narrower_than_the_unpaired_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    hardness = torch.randn(500, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 500, generator=generator, dtype=torch.float64)
    a, b = 0.6 + 0.1 * hardness + 0.01 * noise[0], 0.63 + 0.1 * hardness + 0.01 * noise[1]
    difference = paired_difference(a, b)
    assert difference.real
    assert difference.mean == pytest.approx(0.03, abs=0.002)
    assert difference.half_width < mean_ci95(a).half_width / 5


def test_words_name_the_better_one_whichever_comes_first() -> None:
    assert PairedDifference(0.0931, 0.0042, 2000).words("A", "B") == (
        "B is better than A by 9.31 ± 0.42 points (paired over 2000 episodes)"
    )
    assert PairedDifference(-0.0931, 0.0042, 2000).words("A", "B") == (
        "A is better than B by 9.31 ± 0.42 points (paired over 2000 episodes)"
    )


def test_words_say_so_when_the_interval_contains_zero() -> None:
    assert PairedDifference(-0.001, 0.004, 600).words("A", "B") == (
        "no real difference between A and B: −0.10 ± 0.40 points (paired over 600 episodes)"
    )


def test_unequal_numbers_of_episodes_cannot_be_paired() -> None:
    with pytest.raises(ConfigError, match="same episodes: got 3 and 4"):
        paired_difference(torch.ones(3), torch.ones(4))


@pytest.mark.parametrize(
    ("freedom", "table"),
    [(1, 12.706), (4, 2.776), (5, 2.571), (9, 2.262), (19, 2.093), (10**6, 1.96)],
)
def test_student_t_is_that_of_the_tables(freedom: int, table: float) -> None:
    assert student_t(freedom) == pytest.approx(table, rel=4e-4)


def drawn_episodes(classes: int, ways: int, episodes: int, generator: torch.Generator) -> Tensor:
    return torch.rand(episodes, classes, generator=generator).argsort(-1)[:, :ways]


def test_interval_over_classes_covers_the_truth_as_often_as_it_says() -> None:
    """Classes are points; two near each other are confused. The truth is over all such points."""
    generator = torch.Generator().manual_seed(1)

    def accuracy(points: Tensor) -> Tensor:  # (E, W, 4) -> (E,)
        near = torch.exp(-torch.cdist(points, points).square() / 4)
        return (1 / near.sum(-1)).mean(-1)

    def points(*shape: int) -> Tensor:
        return torch.randn(*shape, 4, generator=generator, dtype=torch.float64)

    truth = float(accuracy(points(100_000, 5)).mean())
    covered, narrow, runs = 0, 0, 200
    for _ in range(runs):
        members, embedding = drawn_episodes(20, 5, 400, generator), points(20)
        values = accuracy(embedding[members])
        interval = class_interval(values, members)
        covered += abs(interval.mean - truth) < interval.half_width
        narrow += abs(interval.mean - truth) < mean_ci95(values).half_width
    assert 0.90 <= covered / runs <= 0.99
    assert narrow / runs < 0.4  # what the usual interval covers when classes are what varies


def test_classes_that_make_no_difference_leave_the_interval_over_episodes() -> None:
    generator = torch.Generator().manual_seed(0)
    members = drawn_episodes(50, 5, 2000, generator)
    values = torch.rand(2000, generator=generator, dtype=torch.float64)
    interval, plain = class_interval(values, members), mean_ci95(values)
    assert interval.mean == plain.mean
    assert plain.half_width <= interval.half_width < 2 * plain.half_width


def test_class_numbers_are_only_names() -> None:
    generator = torch.Generator().manual_seed(0)
    members = drawn_episodes(12, 5, 300, generator)
    values = torch.rand(300, generator=generator, dtype=torch.float64)
    assert class_interval(values, members) == class_interval(values, 1000 - 7 * members)


def test_no_interval_over_classes_when_every_episode_has_all_of_them() -> None:
    members = torch.arange(5).expand(10, 5)
    interval = class_interval(torch.rand(10), members)
    assert math.isnan(interval.half_width)
    assert "no interval: a class is in every episode" in str(interval)


@pytest.mark.parametrize("episodes", [100, 600])
def test_classes_that_are_asked_once_or_never_leave_an_interval(episodes: int) -> None:
    """As of 423 classes in few tasks: the interval is the same as with many tasks, and wider."""
    generator = torch.Generator().manual_seed(0)
    members = drawn_episodes(423, 5, 5000, generator)
    own = torch.randn(423, generator=generator, dtype=torch.float64)  # what a class is worth
    noise = torch.randn(5000, generator=generator, dtype=torch.float64)
    values = own[members].mean(1) + noise
    few = class_interval(values[:episodes], members[:episodes])
    assert 1 in torch.bincount(members[:episodes].flatten())
    assert mean_ci95(values[:episodes]).half_width <= few.half_width
    expected = math.sqrt(1.96**2 / 423 + mean_ci95(values[:episodes]).half_width ** 2)
    assert few.half_width == pytest.approx(expected, rel=0.25)


def test_a_bound_is_never_narrower_than_the_interval_over_episodes() -> None:
    members = torch.arange(2).expand(10, 2)
    ways = torch.rand(10, 1, generator=torch.Generator().manual_seed(0)).expand(10, 2)
    interval = class_interval(ways.mean(-1), members, ways)  # its classes are alike
    assert interval.at_most
    assert interval.half_width == mean_ci95(ways.mean(-1)).half_width


def confused_points(generator: torch.Generator, classes: int, ways: int) -> tuple[Tensor, Tensor]:
    """Accuracy of each way (E, W) and the classes (E, W); near classes are confused."""
    members = drawn_episodes(classes, ways, 1000, generator)
    embedding = torch.randn(classes, 4, generator=generator, dtype=torch.float64)[members]
    near = torch.exp(-torch.cdist(embedding, embedding).square() / 4)
    return 1 / near.sum(-1), members


@pytest.mark.parametrize("ways", [2, 4])
def test_a_two_level_bootstrap_finds_the_same_width(ways: int) -> None:
    generator = torch.Generator().manual_seed(ways)
    ratios = []
    for _ in range(20):
        way_values, members = confused_points(generator, 25, ways)
        values = way_values.mean(-1)
        drawn = class_bootstrap(values, members, 300, generator)
        assert drawn.mean == pytest.approx(class_interval(values, members).mean)
        ratios.append(drawn.half_width / class_interval(values, members).half_width)
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.1)


def test_the_bootstrap_adds_the_noise_of_the_episodes() -> None:
    generator = torch.Generator().manual_seed(0)
    members = torch.arange(40).repeat(25)[:, None]  # classes that make no difference
    values = torch.rand(1000, generator=generator, dtype=torch.float64)
    drawn = class_bootstrap(values, members, 1000, generator)
    # weights n * m of a class and an episode, both of mean and variance 1: E(nm)^2 - 1 = 3
    assert drawn.half_width == pytest.approx(3**0.5 * mean_ci95(values).half_width, rel=0.1)


def test_with_every_class_in_every_episode_the_classes_own_spread_bounds_the_interval() -> None:
    generator = torch.Generator().manual_seed(3)
    covered, runs = 0, 100
    pool = torch.randn(20_000, 8, 4, generator=generator, dtype=torch.float64)
    truth = (1 / torch.exp(-torch.cdist(pool, pool).square() / 4).sum(-1)).mean()
    for _ in range(runs):
        way_values, members = confused_points(generator, 8, 8)
        interval = class_interval(way_values.mean(-1), members, way_values)
        assert interval.at_most
        covered += abs(interval.mean - float(truth)) < interval.half_width
    assert covered >= 90
    assert "± at most" in str(interval)


def test_way_values_change_nothing_when_episodes_leave_classes_out() -> None:
    way_values, members = confused_points(torch.Generator().manual_seed(0), 12, 5)
    values = way_values.mean(-1)
    assert class_interval(values, members, way_values) == class_interval(values, members)


def test_class_accuracies_average_over_the_ways_of_a_class() -> None:
    members = torch.tensor([[0, 1], [1, 2]])
    values = torch.tensor([[0.5, 1.0], [0.0, 0.25]])
    result = class_accuracies(values, members, 4)
    assert result[:3].tolist() == [0.5, 0.5, 0.25]
    assert math.isnan(result[3])
