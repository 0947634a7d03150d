"""What a comparison says: which differences are called real, and in which words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

import pytest
import torch

from data_shards.location import Location
from fsl.metrics import mean_ci95
from pipelines.compare.answers import Answers
from pipelines.compare.asked import Bank
from pipelines.compare.differences import run_half_width
from pipelines.compare.panel import Panel, Row, panel
from pipelines.compare.words import cautions, sentences, signed, verdict
from tests.evaluated_run import draw

BANK = Bank(
    digest="0" * 12, split="novel", data="data", tasks=800, ways=5, shots=1, queries=15, seed=0
)


def row(name: str, levels: Sequence[float], luck: float = 0.0, own: int = 1, ways: int = 5) -> Row:
    """A method with a training run for each level; `own` is the chance that is its own."""
    answers = []
    for number, level in enumerate(levels):
        scores, classes = draw(level, BANK.tasks, bank=5, own=100 * own + number, luck=luck)
        if ways == 20:  # every episode has all classes
            classes = torch.arange(20).repeat(BANK.tasks, 1)
            values = scores.way_accuracies.repeat(1, 4)
        else:
            values = scores.way_accuracies
        answers.append(
            Answers(
                run=Location.parse(f"/runs/{name}"), place=Location.parse(f"/runs/{name}/e"),
                evaluation="evaluate", model=name, trained=True, protocol="method", seed=number,
                weights=f"{name}{number}", method=name, cpu_minutes=None, before=frozenset(),
                bank=BANK,
                accuracies=values.mean(-1), way_accuracies=values, classes=classes,
            )
        )  # fmt: skip
    return Row(name, answers)


def table(*rows: Row, baseline: str | None = None) -> Panel:
    return panel("5-way 1-shot", BANK, rows, baseline)


def said(shown: Panel) -> str:
    return " ".join([*sentences(shown), *cautions([shown])])


def test_a_lead_that_other_classes_would_show_is_said_to_be_one() -> None:
    shown = table(row("good", [0.9], own=1), row("bad", [0.6], own=2))
    assert shown.differences[0, 1].real_across_classes
    assert "Best: good with" in said(shown)
    assert "Worse than good, on other classes too: bad (−" in said(shown)
    assert verdict(shown.differences[1, 0]) == "other classes too"


def test_a_lead_that_rests_on_the_classes_is_said_to_rest_on_them() -> None:
    shown = table(row("good", [0.80], luck=0.1, own=1), row("bad", [0.76], luck=0.1, own=2))
    difference = shown.differences[1, 0]
    assert (difference.real, difference.real_across_classes) == (True, False)
    assert "on these 20 classes, but other classes could turn it round: " in said(shown)
    assert verdict(difference) == "on these classes"


def test_what_is_within_the_luck_of_the_episodes_is_named_with_the_best() -> None:
    shown = table(row("a", [0.8], own=1), row("b", [0.8], own=2), row("c", [0.5], own=3))
    assert shown.leaders == [0, 1]
    best, other = (shown.rows[i].name for i in (0, 1))
    words = f"{other} cannot be told from it: its lag may be the luck of these 800 episodes."
    assert sentences(shown)[0].startswith(f"Best: {best} with ")
    assert sentences(shown)[0].endswith(words)
    assert verdict(shown.differences[1, 0]) == "cannot be told"


def test_several_that_cannot_be_told_from_the_best_are_listed() -> None:
    shown = table(*(row(name, [0.8], own=i) for i, name in enumerate("abc")))
    first = sentences(shown)[0]
    assert f"{shown.rows[1].name} and {shown.rows[2].name} cannot be told from it" in first
    assert "their lags may be the luck" in first


def test_against_a_baseline_both_sides_are_named() -> None:
    shown = table(
        row("base", [0.7], own=1),
        row("up", [0.85], own=2),
        row("same", [0.7], own=3),
        row("down", [0.5], own=4),
        baseline="base",
    )
    words = said(shown)
    assert "Better than base, on other classes too: up (+" in words
    assert "Worse than base, on other classes too: down (−" in words
    assert "Cannot be told from base: same (" in words


def test_many_equal_methods_are_not_called_different() -> None:
    tables = [
        table(*(row(f"m{i}", [0.8], own=100 * repeat + i) for i in range(8))) for repeat in range(6)
    ]
    pairs = [d for shown in tables for d in shown.differences.values()]
    alone = [d for d in pairs if abs(d.mean) > d.half_width]
    assert alone, "without a correction some look real"
    assert sum(d.real for d in pairs) < len(alone) / 4


def test_every_episode_with_all_classes_gives_a_bound() -> None:
    shown = table(row("good", [0.9], own=1, ways=20), row("bad", [0.6], own=2, ways=20))
    assert shown.bounded
    assert not math.isnan(shown.differences[0, 1].class_half_width)


def test_seeds_that_differ_more_than_the_methods_are_a_warning() -> None:
    shown = table(row("a", [0.78, 0.82, 0.86], own=1), row("b", [0.76, 0.80, 0.84], own=2))
    difference = shown.differences[1, 0]
    assert difference.real
    assert difference.real_across_runs is False
    assert "Trained again with other seeds, b (±" in said(shown)
    assert "could change places with a" in said(shown)


def test_a_method_that_was_trained_once_is_named() -> None:
    shown = table(row("a", [0.9, 0.9], own=1), row("b", [0.7], own=2))
    assert "b was trained once: how much another seed would change is not known." in said(shown)
    assert shown.differences[0, 1].real_across_runs is None
    both = table(row("a", [0.9], own=1), row("b", [0.7], own=2))
    assert "Every method was trained once" in said(both)


def test_one_pair_needs_no_word_about_their_number() -> None:
    two, three = row("a", [0.9]), [row("b", [0.7], own=2), row("c", [0.6], own=3)]
    assert "Holm" not in said(table(two, three[0]))
    assert "a table has (here up to 3)" in said(table(two, *three))


def test_intervals_of_a_method_are_those_of_its_mean_over_seeds() -> None:
    shown = row("a", [0.7, 0.9])
    assert shown.mean == mean_ci95((shown.answers[0].accuracies + shown.answers[1].accuracies) / 2)
    assert shown.run_sd == stdev(shown.run_means)


def test_the_interval_over_runs_is_students() -> None:
    # two groups of three with variance 1: t(4) = 2.7764, standard error sqrt(2 / 3)
    assert run_half_width([1, 2, 3], [4, 5, 6]) == pytest.approx(2.7764 * (2 / 3) ** 0.5, rel=1e-4)
    assert math.isnan(run_half_width([1], [4, 5, 6]))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+1.23"), (-0.0123, "−1.23"), (-0.00001, "0.00")]
)
def test_differences_have_a_sign_unless_they_round_to_zero(value: float, text: str) -> None:
    assert signed(value) == text
