"""MoCo: the shared contract, then its loss, its slow copy and its two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fsl.backbones.conv4 import Conv4, Conv4Config
from fsl.config import build
from fsl.distributed import world_size
from fsl.errors import ConfigError
from fsl.losses.momentum_contrast import momentum_contrast_loss
from fsl.methods.moco import MoCo, MoCoConfig, MoCoHeadConfig
from fsl.methods.simclr import GlobalBatchNorm
from fsl.testing import MethodContract, tiny_backbone, toy_multiview_batch
from fsl.types import MultiViewBatch, Progress
from tests.unit.fsl.test_distributed import PROCESSES, forks, in_two_processes, own_part, toy_batch

HEAD = MoCoHeadConfig(hidden=32, output=16)


class TestMoCo(MethodContract):
    config = MoCoConfig(head=HEAD)


class TestThreeLayersAndLowTemperature(MethodContract):
    config = MoCoConfig(head=HEAD.model_copy(update={"layers": 3}), temperature=0.2)


class TestConv4(MethodContract):
    config = MoCoConfig(head=HEAD)

    def backbone(self) -> Any:
        return Conv4(Conv4Config(width=8), self.images)


class Doubled(MoCo):
    """Puts changed rows below the plain ones, as BatchFormer does."""

    def mix(self, features: Tensor) -> Tensor:
        return torch.cat([features, features.flip(1)])

    def mix_teacher(self, features: Tensor) -> Tensor:
        return torch.cat([features, features + features.mean(0)])


def method(kind: type[MoCo] = MoCo, **settings: Any) -> MoCo:
    torch.manual_seed(0)
    return kind(build(MoCoConfig, {"head": HEAD.model_dump(), **settings}), tiny_backbone())


def one_term(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Eq. (1) of the paper times 2 tau: image i's query wants image i's key."""
    scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT
    expected = F.cross_entropy(scores / temperature, torch.arange(len(query)))
    return 2 * temperature * expected


def test_each_view_asks_for_the_other_view_of_its_image() -> None:
    learner, batch = method(temperature=0.3), toy_multiview_batch(size=6)
    first, second = batch.global_views[:6], batch.global_views[6:]
    expected = one_term(learner.queries(first), learner.keys(second), 0.3)
    expected = expected + one_term(learner.queries(second), learner.keys(first), 0.3)
    torch.testing.assert_close(learner(batch).loss, expected)


@pytest.mark.parametrize(("streams", "divisor"), [("sum", 1), ("mean", 4)])
def test_every_stream_of_queries_asks_in_every_stream_of_keys(streams: str, divisor: int) -> None:
    learner, batch = method(Doubled, streams=streams), toy_multiview_batch(size=5)
    views = torch.split(batch.global_views, 5)
    queries = [torch.split(learner.queries(view), 5) for view in views]
    keys = [torch.split(learner.keys(view), 5) for view in views]
    assert len(queries[0]) == len(keys[0]) == 2
    terms = [
        one_term(query, key, 1.0)
        for asking in (0, 1)
        for query in queries[asking]
        for key in keys[1 - asking]
    ]
    torch.testing.assert_close(learner(batch).loss, torch.stack(terms).sum() / divisor)


def test_numbers_of_streams_may_differ() -> None:
    queries, keys = torch.randn(2, 4, 3), torch.randn(2, 12, 3)
    loss, _ = momentum_contrast_loss(queries, keys, 4, 0.5)
    terms = [
        one_term(queries[view], key, 0.5)
        for view in (0, 1)
        for key in torch.split(keys[1 - view], 4)
    ]
    torch.testing.assert_close(loss, torch.stack(terms).sum())


def test_accuracy_is_the_share_of_queries_that_find_their_image() -> None:
    keys = torch.eye(4).expand(2, 4, 4)
    queries = keys.clone()
    queries[0, 0] = keys[0, 1]
    assert momentum_contrast_loss(queries, keys, 4, 1.0)[1] == 7 / 8


def test_the_loss_is_float32_under_autocast() -> None:
    queries, keys = torch.randn(2, 2, 8, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = momentum_contrast_loss(queries, keys, 8, 0.2)
    assert loss.dtype == torch.float32
    exact, _ = momentum_contrast_loss(queries.double(), keys.double(), 8, 0.2)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)


def test_the_copy_learns_by_following_only() -> None:
    learner, batch = method(momentum=0.75, final_momentum=0.75), toy_multiview_batch()
    progress = Progress(0, 10, 5)
    learner.before_step(progress)
    learner(batch).loss.backward()
    trained = {name for name, p in learner.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in trained} == {"backbone", "projector", "predictor"}
    before = learner.teacher_projector.get_parameter("0.weight").clone()
    with torch.no_grad():
        learner.projector.get_parameter("0.weight").add_(1.0)
    learner.after_step(progress)
    torch.testing.assert_close(learner.teacher_projector.get_parameter("0.weight"), before + 0.25)


def test_momentum_rises_along_half_a_cosine() -> None:
    learner, values = method(momentum=0.99), []
    for step in (0, 5, 10):
        learner.before_step(Progress(step, 10, 5))
        values.append(learner.momentum)
    assert values == pytest.approx([0.99, 0.995, 1.0])


def test_heads_have_norms_and_only_the_projectors_last_one_is_fixed() -> None:
    learner = method(head={"layers": 3, "hidden": 12, "output": 8})
    kinds = [type(layer).__name__ for layer in learner.projector]
    block = ["Linear", "GlobalBatchNorm", "ReLU"]
    assert kinds == [*block, *block, "Linear", "GlobalBatchNorm"]
    assert [type(layer).__name__ for layer in learner.predictor] == [*block, "Linear"]
    fixed = [
        not p.requires_grad
        for layer in learner.projector
        if isinstance(layer, GlobalBatchNorm)
        for p in layer.parameters()
    ]
    assert fixed == [False, False, False, False, True, True]


def test_every_parameter_that_learns_gets_a_gradient() -> None:
    learner = method()
    learner(toy_multiview_batch()).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in learner.parameters())


def test_evaluation_features_are_those_of_the_query_branch_before_the_projector() -> None:
    learner, images = method(), torch.randn(2, 3, 3, 16, 16)
    with torch.no_grad():
        for parameter in learner.teacher_backbone.parameters():
            parameter.zero_()
    expected = learner.backbone(images.flatten(0, 1)).view(2, 3, -1)
    assert torch.equal(learner.embed(images), expected)


def step() -> dict[str, Tensor]:
    """The weighted loss of this process's images and the gradients that the trainer gets."""
    size = 7  # 4 images on one process, 3 on the other
    learner = method(temperature=0.2).double()
    model = DistributedDataParallel(learner) if world_size() > 1 else learner
    batch = own_part(toy_batch(size))
    views = batch.global_views.double()
    loss, metrics = model(
        MultiViewBatch(views, batch.local_views, batch.masks, batch.labels, batch.size)
    )
    weight = batch.size * world_size() / size
    (loss * weight).backward()
    gradients = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    numbers = {"loss": loss.detach(), "accuracy": metrics["accuracy"]}
    return {name: value * weight for name, value in numbers.items()} | gradients


@forks
def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    first, second = in_two_processes(step, tmp_path)
    expected = step()
    assert len(expected) > 20
    for name, value in expected.items():
        mean = (first[name] + second[name]) / PROCESSES
        torch.testing.assert_close(mean, value, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"temperature": 0}, "temperature"),
        ({"streams": "max"}, "streams"),
        ({"momentum": 1.5}, "momentum"),
        ({"head": {"layers": 4}}, "head.layers"),
    ],
)
def test_settings_have_limits(setting: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        build(MoCoConfig, setting)
