"""Mean and interval print one way and refuse what has none."""

import math

import pytest
import torch

from fsl.errors import ConfigError
from fsl.metrics import MeanCI, accuracy, mean_ci95


def test_a_mean_always_prints_with_interval_and_tasks() -> None:
    assert str(MeanCI(0.6132, 0.0038, 2000)) == "61.32 ± 0.38 % (2000 tasks)"


def test_interval_uses_the_sample_standard_deviation() -> None:
    result = mean_ci95(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert result.mean == 0.5
    assert result.half_width == pytest.approx(1.96 * math.sqrt(1 / 3) / 2)


def test_one_task_has_no_interval() -> None:
    with pytest.raises(ConfigError, match="at least 2 tasks, got 1; raise `tasks`"):
        mean_ci95(torch.tensor([0.5]))


def test_accuracy_is_the_fraction_of_largest_logits_at_the_label() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    assert float(accuracy(logits, torch.tensor([1, 0, 0]))) == pytest.approx(2 / 3)
