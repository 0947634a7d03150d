"""Evaluation against the published code: prototype accuracies and the cosine classifier."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fsl.evaluation import prototype_accuracies
from fsl.metrics import mean_ci95

pytestmark = pytest.mark.parity

GOLDEN = Path(os.environ.get("FEWSHOT_GOLDEN", Path(__file__).parents[3] / "shared/golden"))
ARCHIVES = sorted(GOLDEN.glob("smkd_eval_*.npz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.stem)
def archive(request: pytest.FixtureRequest) -> dict[str, Any]:
    with np.load(request.param, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def test_there_are_reference_vectors() -> None:
    if not GOLDEN.is_dir():
        pytest.skip(f"no reference vectors at {GOLDEN}; set FEWSHOT_GOLDEN")
    assert len(ARCHIVES) >= 2


def episodes(archive: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """Features (N, D), labels (N,), support (E, W, k) and query (E, W, q) rows."""
    features = torch.from_numpy(archive["features"])  # (classes, images, D)
    classes, images, _ = features.shape
    rows = torch.from_numpy(archive["episode_classes"][..., None] * images)
    rows = rows + torch.from_numpy(archive["episode_images"])  # (E, W, k + q)
    shots = int(archive["shots"])
    labels = torch.arange(classes).repeat_interleave(images)
    return features.flatten(0, 1), labels, rows[..., :shots], rows[..., shots:]


def test_prototype_accuracies_are_those_of_the_published_code(archive: dict[str, Any]) -> None:
    accuracies = prototype_accuracies(*episodes(archive))
    np.testing.assert_allclose(100 * accuracies.numpy(), archive["proto_acc"], rtol=1e-12)


def test_mean_and_interval_agree_up_to_the_degrees_of_freedom(archive: dict[str, Any]) -> None:
    result = mean_ci95(prototype_accuracies(*episodes(archive)))
    published = float(archive["ci95"]) * math.sqrt(result.tasks / (result.tasks - 1))
    assert 100 * result.mean == pytest.approx(float(archive["mean"]))
    assert 100 * result.half_width == pytest.approx(published)
