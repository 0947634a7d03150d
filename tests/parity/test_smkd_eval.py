"""Evaluation against the published code: prototype accuracies and the cosine classifier."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from fsl.cosine_classifier import Start, classifier_inputs, train_classifiers
from fsl.evaluation import prototype_accuracies
from fsl.metrics import accuracy, mean_ci95

pytestmark = pytest.mark.archive("smkd.evaluation")


def episodes(archive: Any) -> tuple[torch.Tensor, ...]:
    """Features (N, D), labels (N,), support (E, W, k) and query (E, W, q) rows."""
    features = archive["features"]  # (classes, images, D)
    classes, images, _ = features.shape
    rows = archive["episode_classes"][..., None] * images + archive["episode_images"]
    labels = torch.arange(classes).repeat_interleave(images)
    shots = archive.integer("shots")  # rows: (E, W, k + q)
    return features.flatten(0, 1), labels, rows[..., :shots], rows[..., shots:]


def test_prototype_accuracies_are_those_of_the_published_code(archive: Any) -> None:
    accuracies = prototype_accuracies(*episodes(archive))
    np.testing.assert_allclose(100 * accuracies.numpy(), archive["proto_acc"], rtol=1e-12)


def test_mean_and_interval_agree_up_to_the_degrees_of_freedom(archive: Any) -> None:
    result = mean_ci95(prototype_accuracies(*episodes(archive)))
    published = archive.number("ci95") * math.sqrt(result.tasks / (result.tasks - 1))
    assert 100 * result.mean == pytest.approx(archive.number("mean"))
    assert 100 * result.half_width == pytest.approx(published)


def classifier_logits(archive: Any, epochs: int) -> torch.Tensor:
    """Query logits (W*q, W) of the first episode after `epochs`, from the stored random numbers."""
    features, _, support, query = episodes(archive)
    start = Start(
        archive["clf_v0"][None],
        archive["clf_g0"][None, :, 0],
        archive["clf_orders"].long()[:epochs, None],
    )
    inputs = classifier_inputs(features)
    shown = inputs[support[0].flatten()][None]
    weights = train_classifiers(shown, support.shape[2], start)[0]
    return inputs[query[0].flatten()] @ weights.mT


def test_classifier_scores_are_those_of_the_published_code(archive: Any) -> None:
    logits = classifier_logits(archive, epochs=301)
    np.testing.assert_allclose(logits.numpy(), archive["clf_scores_300"], rtol=0, atol=2e-3)


@pytest.mark.parametrize("epoch", [100, 200])
def test_classifier_accuracy_along_training_agrees(archive: Any, epoch: int) -> None:
    logits = classifier_logits(archive, epochs=epoch + 1)
    truth = torch.arange(5).repeat_interleave(15)
    expected = archive["clf_acc_at_100_200_300"][epoch // 100 - 1]
    assert 100 * float(accuracy(logits, truth)) == pytest.approx(float(expected), abs=1e-4)
