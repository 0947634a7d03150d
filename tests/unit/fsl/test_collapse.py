"""Signs of a collapse and the sentences about them."""

from __future__ import annotations

import math

import pytest
import torch

from fsl.collapse import collapse_signals, diagnose, effective_rank, update_center

K = 64


def signals(probabilities: torch.Tensor, features: torch.Tensor) -> dict[str, float]:
    found = collapse_signals(probabilities, features, torch.ones(K))
    return {name: value.item() for name, value in found.items()}


def test_a_uniform_teacher_has_entropy_ln_k_and_is_called_collapsed() -> None:
    found = signals(torch.full((8, K), 1 / K), torch.randn(8, 16))
    assert found["teacher_entropy"] == pytest.approx(math.log(K))
    assert found["teacher_kl"] == pytest.approx(0.0, abs=1e-6)
    assert found["center_norm"] == pytest.approx(8.0)
    sentence = diagnose({**found, "loss_cls": math.log(K)}, K)
    assert sentence is not None
    assert "collapsed to uniform" in sentence
    assert "fewer prototypes" in sentence


def test_one_prototype_for_all_is_called_collapsed() -> None:
    probabilities = torch.zeros(8, K)
    probabilities[:, 3] = 1.0
    found = signals(probabilities, torch.randn(8, 16))
    assert found["teacher_entropy"] == 0.0
    assert found["teacher_kl"] == pytest.approx(math.log(K), rel=1e-5)
    assert "one prototype" in (diagnose({**found, "loss_cls": 0.01}, K) or "")


def test_equal_features_are_called_alike() -> None:
    found = signals(torch.eye(8, K), torch.ones(8, 16))
    assert found["effective_rank"] == 0.0
    assert "nearly alike" in (diagnose({**found, "loss_cls": 1.0}, K) or "")


def test_a_healthy_network_gets_no_warning() -> None:
    found = signals(torch.eye(8, K), torch.randn(8, 16))
    assert diagnose({**found, "loss_cls": 2.0}, K) is None
    assert diagnose({}, K) is None


@pytest.mark.parametrize("shape", [(200, 4), (4, 200)])
def test_effective_rank_is_one_on_a_line(shape: tuple[int, int]) -> None:
    line = torch.linspace(-1, 1, shape[0])[:, None] * torch.randn(1, shape[1])
    assert effective_rank(line).item() == pytest.approx(1.0, abs=1e-4)


def test_effective_rank_of_isotropic_features_is_their_width() -> None:
    assert effective_rank(torch.randn(20_000, 6)).item() == pytest.approx(6.0, abs=0.05)


def test_center_moves_towards_the_batch() -> None:
    center = update_center(torch.ones(3), torch.zeros(3), 0.9)
    torch.testing.assert_close(center, torch.full((3,), 0.9))
