"""The supervised baseline: the shared contract, then its classifiers and their settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fsl.augment import SingleViewConfig
from fsl.backbones.conv4 import Conv4, Conv4Config
from fsl.config import build
from fsl.errors import ConfigError
from fsl.methods.supervised import Supervised, SupervisedConfig
from fsl.testing import (
    TOY_IMAGES,
    MethodContract,
    tiny_backbone,
    toy_decoded_images,
    toy_labelled_batch,
)
from fsl.types import LabelledBatch


class TestCosine(MethodContract):
    config = SupervisedConfig(classes=3)


class TestLinearWithSmoothing(MethodContract):
    config = SupervisedConfig(classes=3, classifier="linear", label_smoothing=0.1)


class TestTurned(MethodContract):
    config = SupervisedConfig(classes=3, turned_classes=True)


class TestConv4(MethodContract):
    config = SupervisedConfig(classes=3)

    def backbone(self) -> Any:
        return Conv4(Conv4Config(width=8), self.images)


def method(**settings: Any) -> Supervised:
    return Supervised(build(SupervisedConfig, {"classes": 3, **settings}), tiny_backbone())


def test_the_cosine_classifier_ignores_the_lengths_of_features_and_weights() -> None:
    learner, features = method(temperature=0.05), torch.randn(4, 16)
    logits = learner.class_logits(features)
    expected = F.cosine_similarity(features[:, None], learner.classifier.weight[None], -1) / 0.05
    torch.testing.assert_close(logits, expected)
    with torch.no_grad():
        learner.classifier.weight.mul_(torch.tensor([[2.0], [0.5], [7.0]]))
    torch.testing.assert_close(learner.class_logits(3 * features), logits)
    assert learner.classifier.bias is None


def test_the_linear_classifier_is_a_linear_layer() -> None:
    learner, features = method(classifier="linear"), torch.randn(4, 16)
    with torch.no_grad():
        learner.classifier.bias.normal_()
    expected = features @ learner.classifier.weight.mT + learner.classifier.bias
    torch.testing.assert_close(learner.class_logits(features), expected)
    halved = method(classifier="linear", temperature=2.0)
    halved.load_state_dict(learner.state_dict())
    torch.testing.assert_close(halved.class_logits(features), expected / 2)


@pytest.mark.parametrize(("classifier", "temperature"), [("cosine", 0.1), ("linear", 1.0)])
def test_without_a_temperature_each_classifier_has_its_own(
    classifier: str, temperature: float
) -> None:
    assert method(classifier=classifier).temperature == temperature
    assert method(classifier=classifier, temperature=0.3).temperature == 0.3


@pytest.mark.parametrize("classifier", ["cosine", "linear"])
def test_logits_stay_precise_under_bfloat16_autocast(classifier: str) -> None:
    learner, features = method(classifier=classifier, temperature=0.02), torch.randn(4, 16)
    expected = learner.class_logits(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(learner.class_logits(features), expected)


def test_the_loss_is_the_smoothed_cross_entropy_written_out() -> None:
    learner, batch = method(label_smoothing=0.3), toy_labelled_batch()
    shares = learner.class_logits(learner.embed(batch.images)).softmax(-1)
    targets = 0.7 * F.one_hot(batch.labels, 3) + 0.3 / 3
    expected = -(targets * shares.log()).sum(-1).mean()
    loss, metrics = learner(batch)
    torch.testing.assert_close(loss, expected)
    assert metrics["accuracy"] == (shares.argmax(-1) == batch.labels).float().mean()


def test_turned_classes_have_four_times_the_outputs_and_labels() -> None:
    config = SupervisedConfig(classes=3, turned_classes=True)
    learner = Supervised(config, tiny_backbone())
    assert learner.classifier.out_features == 12
    images, labels, seeds = toy_decoded_images(classes=3, per_class=12)
    batcher = Supervised.batcher(config, TOY_IMAGES, None)
    batch = batcher(images, labels, seeds, 0)
    assert isinstance(batch, LabelledBatch)
    assert batch.labels.remainder(3).tolist() == labels
    assert set((batch.labels // 3).tolist()) == {0, 1, 2, 3}
    assert torch.isfinite(learner(batch).loss)


@pytest.mark.parametrize("turned", [False, True])
def test_an_unknown_number_of_classes_is_refused_with_the_remedy(turned: bool) -> None:
    config = SupervisedConfig(turned_classes=turned)
    message = "classes: null stands for .* a train stage fills in; .* set it to their number"
    with pytest.raises(ConfigError, match=message):
        Supervised(config, tiny_backbone())
    with pytest.raises(ConfigError, match=message):
        Supervised.batcher(config, TOY_IMAGES, None)


def test_turning_classes_and_images_at_once_is_refused() -> None:
    config = SupervisedConfig(
        classes=3, turned_classes=True, view=SingleViewConfig(quarter_turns=True)
    )
    with pytest.raises(ConfigError, match=r"set view\.quarter_turns: false"):
        Supervised(config, tiny_backbone())
    with pytest.raises(ConfigError, match=r"set view\.quarter_turns: false"):
        Supervised.batcher(config, TOY_IMAGES, None)


@pytest.mark.parametrize(
    "setting",
    [{"classes": 1}, {"temperature": 0}, {"label_smoothing": 1.0}, {"classifier": "cosin"}],
)
def test_settings_have_limits(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        build(SupervisedConfig, setting)


def test_every_parameter_gets_a_gradient() -> None:
    for classifier in ("cosine", "linear"):
        learner: nn.Module = method(classifier=classifier)
        learner(toy_labelled_batch()).loss.backward()
        assert all(parameter.grad is not None for parameter in learner.parameters())
