"""Tables of several methods: pairs, Holm's adjustment, and what the words say."""

import math

import pytest
import torch
from torch import Tensor

from fsl.comparisons import holm, pairwise
from fsl.errors import ConfigError
from fsl.statistics import class_interval, paired_difference


def answers(shifts: dict[str, float], episodes: int = 400, seed: int = 0) -> dict[str, Tensor]:
    """Accuracies that share the episodes' hardness."""
    generator = torch.Generator().manual_seed(seed)
    hardness = 0.1 * torch.randn(episodes, generator=generator, dtype=torch.float64)
    return {
        name: 0.6
        + shift
        + hardness
        + 0.05 * torch.randn(episodes, generator=generator, dtype=torch.float64)
        for name, shift in shifts.items()
    }


def test_every_pair_is_compared_once_in_the_order_of_the_table() -> None:
    found = pairwise(answers({"a": 0.0, "b": 0.0, "c": 0.1}))
    assert [(item.a, item.b) for item in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [item.real for item in found] == [False, True, True]


def test_two_methods_need_no_adjustment() -> None:
    table = answers({"a": 0.0, "b": 0.006})
    (found,) = pairwise(table)
    single = paired_difference(table["a"], table["b"])
    assert found.mean == single.mean
    assert found.half_width == pytest.approx(single.half_width, rel=4e-3)  # t instead of 1.96
    assert found.adjusted == found.p
    assert found.joint_half_width == pytest.approx(found.half_width)


def test_p_is_below_a_twentieth_just_when_the_interval_excludes_zero() -> None:
    for seed in range(40):
        (found,) = pairwise(answers({"a": 0.0, "b": 0.007}, seed=seed))
        assert (found.p < 0.05) == (abs(found.mean) > found.half_width)


def test_holm_multiplies_by_the_comparisons_left_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_comparisons_about_which_nothing_is_known() -> None:
    adjusted = holm([math.nan, 0.01])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == 0.02


def test_tables_without_differences_rarely_show_one() -> None:
    names = dict.fromkeys("abcdef", 0.0)
    tables = [pairwise(answers(names, 100, seed)) for seed in range(200)]
    wrong = sum(any(item.real for item in found) for found in tables)
    alone = sum(any(item.p < 0.05 for item in found) for found in tables)
    apart = sum(any(abs(i.mean) > i.joint_half_width for i in found) for found in tables)
    assert wrong <= 18  # 5 % and two standard errors
    assert apart <= 18
    assert alone > 40  # what one would see without an adjustment


def test_words_name_the_better_one_and_the_evidence() -> None:
    table = answers({"a": 0.0, "b": 0.1, "c": 0.1})
    first, _, last = pairwise(table)
    assert first.words().startswith("b is better than a by ")
    assert first.words().endswith("points (over 400 episodes, adjusted p < 0.001)")
    assert last.words().startswith("no real difference between b and c: ")


def test_equal_answers_are_no_difference_and_constant_ones_are_certain() -> None:
    a = answers({"a": 0.0})["a"]
    same, better, _ = pairwise({"a": a, "copy": a, "best": a + 0.25})
    assert (same.mean, same.p, same.real) == (0, 1, False)
    assert better.p == pytest.approx(0)
    assert better.real


def test_over_classes_the_intervals_are_those_of_class_interval() -> None:
    generator = torch.Generator().manual_seed(1)
    members = torch.rand(400, 12, generator=generator).argsort(-1)[:, :5]
    gain = 0.1 * torch.randn(12, generator=generator, dtype=torch.float64)
    a = answers({"a": 0.0})["a"]
    b = a + gain[members].mean(-1)
    (episodes,), (classes,) = pairwise({"a": a, "b": b}), pairwise({"a": a, "b": b}, members)
    expected = class_interval(b - a, members)
    assert (classes.mean, classes.half_width) == (expected.mean, expected.half_width)
    assert classes.over == "12 classes"
    assert classes.p > episodes.p
    assert (classes.p < 0.05) == (abs(classes.mean) > classes.half_width)


def test_episodes_with_all_classes_tell_nothing_unless_ways_are_given() -> None:
    members = torch.arange(5).expand(400, 5)
    table = answers({"a": 0.0, "b": 0.1})
    (found,) = pairwise(table, members)
    assert not found.real
    assert found.words() == "a and b: a class is in every episode, so nothing can be told"
    ways = {name: values[:, None].expand(-1, 5) for name, values in table.items()}
    (bounded,) = pairwise(table, members, ways)
    assert bounded.real


def test_tables_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least two methods, got 'a'"):
        pairwise(answers({"a": 0.0}))
    with pytest.raises(ConfigError, match="the same episodes; they have: a 4, b 3"):
        pairwise({"a": torch.rand(4), "b": torch.rand(3)})
