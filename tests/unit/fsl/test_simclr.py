"""SimCLR: the shared contract, then its loss, its head and its keys.

That two processes compute what one does is in test_distributed.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fsl.backbones.conv4 import Conv4, Conv4Config
from fsl.config import build
from fsl.errors import ConfigError
from fsl.losses.contrastive import contrastive_loss
from fsl.methods.simclr import GlobalBatchNorm, Projector, ProjectorConfig, SimCLR, SimCLRConfig
from fsl.testing import MethodContract, tiny_backbone, toy_multiview_batch

HEAD = ProjectorConfig(hidden=32, output=16)


class TestSimCLR(MethodContract):
    config = SimCLRConfig(head=HEAD)


class TestThreeLayersWithoutNorm(MethodContract):
    config = SimCLRConfig(head=ProjectorConfig(layers=3, hidden=32, output=16, norm="none"))


class TestWithLabels(MethodContract):
    config = SimCLRConfig(head=HEAD, labels="use")


class TestConv4(MethodContract):
    config = SimCLRConfig(head=HEAD)

    def backbone(self) -> Any:
        return Conv4(Conv4Config(width=8), self.images)


def method(**settings: Any) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(build(SimCLRConfig, {"head": HEAD.model_dump(), **settings}), tiny_backbone())


def test_views_of_an_image_look_for_each_other() -> None:
    learner, batch = method(temperature=0.4), toy_multiview_batch(size=6)
    unit = F.normalize(learner.head(learner.backbone(batch.global_views)), dim=-1)
    scores = (unit @ unit.mT / 0.4).fill_diagonal_(-torch.inf)
    partner = (torch.arange(12) + 6) % 12
    loss, metrics = learner(batch)
    torch.testing.assert_close(loss, F.cross_entropy(scores, partner))
    assert metrics["accuracy"] == (scores.argmax(-1) == partner).float().mean()


def test_labels_matter_only_where_they_are_used() -> None:
    batch = toy_multiview_batch(size=6, classes=3)
    other = replace(batch, labels=torch.zeros(6, dtype=torch.int64))
    ignoring, using = method(), method(labels="use")
    assert ignoring(batch).loss == ignoring(other).loss
    projected = using.head(using.backbone(batch.global_views))
    expected, _ = contrastive_loss(projected, batch.labels.repeat(2), 0.1)
    torch.testing.assert_close(using(batch).loss, expected)
    assert using(other).loss != expected


def test_labels_of_distinct_images_give_the_loss_without_labels() -> None:
    batch = toy_multiview_batch(size=5, classes=5)
    torch.testing.assert_close(method(labels="use")(batch).loss, method()(batch).loss)


def test_images_of_all_classes_are_kept_apart_from_images_of_other_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fsl.methods import simclr

    batch, keys = toy_multiview_batch(size=3), []
    for number in (0, 1, 70_000):
        monkeypatch.setattr(simclr, "rank", lambda n=number: n)
        keys += simclr.image_keys(batch).tolist()
    assert len(set(keys)) == 9


def test_the_norm_is_batch_norm_without_running_statistics() -> None:
    norm, rows = GlobalBatchNorm(7), 5 + 2 * torch.randn(9, 7)
    with torch.no_grad():
        norm.gain.normal_()
        norm.bias.normal_()
    expected = F.batch_norm(rows, None, None, norm.gain, norm.bias, training=True)
    torch.testing.assert_close(norm(rows), expected)
    torch.testing.assert_close(norm.eval()(rows), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(norm(rows), expected)


@pytest.mark.parametrize(
    ("layers", "norm", "norms"), [(2, "batch", 1), (3, "batch", 2), (3, "none", 0)]
)
def test_the_head_has_its_layers_with_a_norm_after_all_but_the_last(
    layers: int, norm: str, norms: int
) -> None:
    head = Projector(10, build(ProjectorConfig, {"layers": layers, "norm": norm, "hidden": 12}))
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds.count("Linear") == layers
    assert kinds.count("ReLU") == layers - 1
    assert kinds.count("GlobalBatchNorm") == norms
    assert kinds[-1] == "Linear"
    assert head(torch.randn(4, 10)).shape == (4, 128)


def test_evaluation_features_are_those_before_the_head() -> None:
    learner, images = method(), torch.randn(2, 3, 3, 16, 16)
    expected = learner.backbone(images.flatten(0, 1)).view(2, 3, -1)
    assert torch.equal(learner.embed(images), expected)


def test_every_parameter_gets_a_gradient() -> None:
    learner = method()
    learner(toy_multiview_batch()).loss.backward()
    assert all(parameter.grad is not None for parameter in learner.parameters())


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"temperature": 0}, "temperature"),
        ({"labels": "maybe"}, "labels"),
        ({"head": {"layers": 1}}, "head.layers"),
        ({"crops": {}}, "crops"),
    ],
)
def test_settings_have_limits(setting: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        build(SimCLRConfig, setting)
