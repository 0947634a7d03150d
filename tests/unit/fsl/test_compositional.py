"""Compositional zero-shot: the method, and the curve of seen against unseen pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fsl.compositional import seen_unseen
from fsl.errors import ConfigError
from fsl.methods.compositional import Compositional, CompositionalConfig, pair_of
from fsl.testing import MethodContract
from fsl.toys import tiny_backbone

PAIRS = (("red", "apple"), ("red", "pear"), ("green", "apple"))


class TestCompositional(MethodContract):
    config = CompositionalConfig(pairs=PAIRS, width=16, dropout=0.0)


def test_unseen_pairs_are_scored_from_their_parts() -> None:
    method = Compositional(TestCompositional.config, tiny_backbone()).eval()
    images = torch.randn(5, 3, 16, 16)
    everything = method.numbered([*PAIRS, ("green", "pear")])
    assert everything.tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]
    with torch.no_grad():
        scores = method.score_pairs(images, everything)
        torch.testing.assert_close(scores[:, :3], method.score_classes(images))
    assert scores.shape == (5, 4)
    assert scores.abs().max() <= 1 / 0.05 + 1e-3  # cosines over the temperature


@pytest.mark.parametrize(("name", "pair"), [("old car", ("old", "car")), ("a b c", ("a", "b c"))])
def test_class_names_are_split_at_the_first_space(name: str, pair: tuple[str, str]) -> None:
    assert pair_of(name) == pair


def test_pairs_come_from_the_classes() -> None:
    known = CompositionalConfig().knowing({"red apple": 3, "green pear": 4})
    assert known.pairs == (("red", "apple"), ("green", "pear"))
    with pytest.raises(ConfigError, match="needs classes named"):
        CompositionalConfig().knowing({"apple": 3})


def test_unknown_parts_and_missing_pairs_are_explained() -> None:
    method = Compositional(TestCompositional.config, tiny_backbone())
    with pytest.raises(ConfigError, match=r"object 'aple' .*did you mean 'apple'"):
        method.numbered([("red", "aple")])
    with pytest.raises(ConfigError, match="pairs: null"):
        Compositional(CompositionalConfig(), tiny_backbone())


def test_the_curve_is_that_of_trying_every_bias() -> None:
    rng = np.random.default_rng(0)
    seen = np.array([True, True, True, False, False])
    labels = rng.integers(0, 5, 60)
    scores = rng.normal(size=(60, 5)) + 1.2 * np.eye(5)[labels] + 0.8 * seen
    result = seen_unseen(scores, labels, seen)
    points = []
    for bias in np.linspace(-8, 8, 4001):
        right = (scores + bias * ~seen).argmax(1) == labels
        points.append((right[~seen[labels]].mean(), right[seen[labels]].mean()))
    unseen_right, seen_right = np.array(points).T
    assert result.seen == pytest.approx(seen_right.max())
    assert result.unseen == pytest.approx(unseen_right.max())
    assert result.auc == pytest.approx(np.trapezoid(seen_right, unseen_right), abs=1e-3)
    sums = seen_right + unseen_right
    assert result.harmonic == pytest.approx((2 * seen_right * unseen_right / sums).max(), abs=1e-3)


def test_a_perfect_model_has_an_area_of_one() -> None:
    labels = np.repeat(np.arange(4), 5)
    result = seen_unseen(np.eye(4)[labels], labels, np.array([True, True, False, False]))
    assert result[:4] == (1.0, 1.0, 1.0, 1.0)


def test_one_kind_of_pairs_has_no_curve() -> None:
    labels = np.array([0, 0, 1])
    with pytest.raises(ConfigError, match="needs images of both"):
        seen_unseen(np.zeros((3, 2)), labels, np.array([True, True]))
    with pytest.raises(ConfigError, match="needs images of both"):
        seen_unseen(np.zeros((2, 2)), labels[:2], np.array([True, False]))


def test_equal_scores_are_no_knowledge() -> None:
    labels = np.arange(8) % 4
    found = seen_unseen(np.zeros((8, 4)), labels, np.array([True, True, False, False]))
    assert (found.seen, found.unseen) == (0.5, 0.5)  # the first of two is chosen


def test_a_model_that_is_never_right_has_no_area() -> None:
    labels = np.arange(8) % 4
    scores = -np.eye(4)[labels]
    scores[:, [0, 2]] += 0.5 * (labels % 2 == 1)[:, None]
    found = seen_unseen(scores, labels, np.array([True, True, False, False]))
    assert (found.auc, found.harmonic, found.seen, found.unseen) == (0, 0, 0, 0)
    assert found.curve.tolist() == [[0, 0]]


def test_listed_pairs_are_those_of_the_classes() -> None:
    config = CompositionalConfig(pairs=(("red", "apple"),))
    assert config.knowing({"red apple": 3}).pairs == (("red", "apple"),)
    with pytest.raises(ConfigError, match="leave pairs out"):
        config.knowing({"red apple": 3, "green apple": 3})
