"""Batched linear heads against scikit-learn, one episode at a time."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import Tensor

import fsl.linear_heads
from fsl.batched_lbfgs import minimise
from fsl.errors import ConfigError
from fsl.evaluation import Linear
from fsl.linear_heads import logistic, nearest_mean, ridge

SHAPES = [(5, 1, 24), (5, 4, 24), (2, 3, 24), (3, 10, 6), (8, 2, 40)]  # ways, shots, width


def episodes(ways: int, shots: int, width: int, count: int = 6) -> tuple[Tensor, Tensor]:
    """Support (E, W, k, D) and queries (E, W*9, D) of overlapping classes far from the origin."""
    generator = torch.Generator().manual_seed(ways + 10 * shots + 100 * width)
    centres = torch.randn(count, ways, 1, width, generator=generator) + 3
    images = centres + torch.randn(count, ways, shots + 9, width, generator=generator)
    return images[:, :, :shots], images[:, :, shots:].flatten(1, 2)


def scores(linear: Linear, query: Tensor) -> Tensor:
    """Scores (E, Q, W) less their mean over the ways."""
    assert linear.bias is not None
    raw = query.double() @ linear.weights.mT + linear.bias[:, None]
    return raw - raw.mean(-1, keepdim=True)


def oracle(
    classifier: LogisticRegression | RidgeClassifier, shown: Tensor, query: Tensor
) -> Tensor:
    """Scores (Q, W) of scikit-learn, less their mean."""
    ways, shots = shown.shape[:2]
    classifier.fit(shown.flatten(0, 1).double().numpy(), np.arange(ways).repeat(shots))
    found = torch.from_numpy(classifier.decision_function(query.double().numpy()))
    if ways == 2:
        found = torch.stack([-found / 2, found / 2], -1)
    return found - found.mean(-1, keepdim=True)


def converged(strength: float) -> LogisticRegression:
    """scikit-learn's classifier, iterated to the optimum."""
    return LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-9, max_iter=1000)


@pytest.mark.parametrize(("ways", "shots", "width"), SHAPES)
@pytest.mark.parametrize("strength", [0.1, 1.0, 30.0])
def test_logistic_regression_is_that_of_scikit_learn(
    ways: int, shots: int, width: int, strength: float
) -> None:
    support, query = episodes(ways, shots, width)
    found = scores(logistic(support, strength), query)
    for number in range(len(support)):
        expected = oracle(converged(strength), support[number], query[number])
        torch.testing.assert_close(found[number], expected, rtol=0, atol=3e-6)


def test_logistic_regression_predicts_as_scikit_learn_s_default_settings() -> None:
    support, query = episodes(5, 5, 64, count=20)
    predicted = scores(logistic(support, 1.0), query).argmax(-1)
    for number in range(len(support)):
        theirs = oracle(LogisticRegression(), support[number], query[number]).argmax(-1)
        assert torch.equal(predicted[number], theirs)


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_logistic_regression_copes_with_features_of_any_scale(scale: float) -> None:
    support, query = episodes(5, 2, 24)
    found = scores(logistic(scale * support, 1 / scale**2), scale * query)
    expected = oracle(converged(1 / scale**2), scale * support[0], scale * query[0])
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("ways", "shots", "width"), SHAPES)
@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_ridge_scores_are_those_of_scikit_learn(
    ways: int, shots: int, width: int, strength: float
) -> None:
    support, query = episodes(ways, shots, width)
    found = scores(ridge(support, strength), query)
    for number in range(len(support)):
        expected = oracle(RidgeClassifier(alpha=strength), support[number], query[number])
        unit = 1 if ways == 2 else 2  # its targets are -1 and 1, ours 0 and 1
        torch.testing.assert_close(unit * found[number], expected, rtol=1e-8, atol=1e-8)


def test_a_ridge_too_weak_for_the_features_is_refused() -> None:
    support, _ = episodes(5, 2, 24)
    with pytest.raises(ConfigError, match=r"ridge: strength 1e-20 .* raise strength, or .*: l2"):
        ridge(1e4 * support, 1e-20)


@pytest.mark.parametrize(("ways", "shots", "width"), SHAPES)
def test_the_nearest_mean_has_the_smallest_distance(ways: int, shots: int, width: int) -> None:
    support, query = episodes(ways, shots, width)
    distances = torch.cdist(query.double(), support.double().mean(2)).square()
    expected = -(distances - distances.mean(-1, keepdim=True)) / 2
    found = nearest_mean(support.double().mean(2))
    torch.testing.assert_close(scores(found, query), expected)


def test_equal_support_images_give_equal_scores_and_no_nan() -> None:
    support = torch.ones(2, 3, 4, 16)
    for linear in (logistic(support, 1.0), ridge(support, 1.0)):
        assert torch.equal(linear.weights, torch.zeros(2, 3, 16, dtype=torch.float64))


def test_an_image_given_twice_counts_twice() -> None:
    support, query = episodes(3, 2, 16)
    doubled = support.repeat(1, 1, 2, 1)
    found, expected = logistic(doubled, 0.5), logistic(support, 1.0)
    torch.testing.assert_close(scores(found, query), scores(expected, query), rtol=0, atol=1e-6)


def test_an_episode_s_classifier_does_not_depend_on_its_neighbours() -> None:
    support, query = episodes(5, 3, 24)
    easy = 20 * support  # converges at another time than the others
    together = scores(logistic(torch.cat([support, easy]), 1.0), torch.cat([query, query]))
    alone = scores(logistic(support[2:3], 1.0), query[2:3])
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-7)


def test_logistic_regression_that_does_not_converge_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fsl.linear_heads, "MAX_ITERATIONS", 2)
    with pytest.raises(ConfigError, match=r"6 of 6 problems have not converged.*lower C"):
        logistic(episodes(5, 1, 24)[0], 1.0)


class Bowls:
    """Sum of cosh(rate * (x - centre)): each problem has its own rates and minimum."""

    def __init__(self, centres: Tensor, rates: Tensor) -> None:
        self.centres, self.rates = centres, rates

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        away = self.rates * (x - self.centres)
        return away.cosh().sum(-1), self.rates * away.sinh()

    def select(self, kept: Tensor) -> "Bowls":
        return Bowls(self.centres[kept], self.rates[kept])


def test_minimise_finds_the_minimum_of_every_problem_in_its_place() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 7, generator=generator, dtype=torch.float64)
    rates = 0.1 + 4 * torch.rand(40, 7, generator=generator, dtype=torch.float64)
    centres[::3] = 0  # solved at the start
    start = torch.zeros_like(centres)
    found = minimise(
        Bowls(centres, rates), start, tolerance=1e-10, max_iterations=200, advice="give up"
    )
    torch.testing.assert_close(found, centres, rtol=0, atol=1e-7)
