"""Additions ride on methods: what they see, what they add, and that nothing of them stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.additions import ADDITIONS, AdditionConfig, AnyAdditions
from fsl.additions.batchformer import BatchFormer
from fsl.additions.drloc import DRLoc, DRLocConfig
from fsl.backbones import AnyBackboneConfig, build_backbone
from fsl.config import Section, build
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.method import AnyMethodConfig, Method, build_method
from fsl.toys import toy_episode, toy_labelled_batch, toy_multiview_batch
from fsl.types import Progress

IMAGES = ImageSpec(size=32, resize=32)
VIT = {"name": "vit", "size": "micro", "width": 32, "depth": 3, "drop_path": 0.0}
CONV = {"name": "conv4", "width": 16, "halvings": 3, "pool": "mean"}
START = Progress(10, 100, 10)


class Recipe(Section):
    method: AnyMethodConfig
    backbone: AnyBackboneConfig
    additions: AnyAdditions = {}  # noqa: RUF012


def made(method: dict[str, Any], additions: dict[str, Any], backbone: Any = None) -> Method[Any]:
    tree = {"method": method, "backbone": backbone or VIT, "additions": additions}
    recipe = build(Recipe, tree)
    torch.manual_seed(0)
    whole = build_method(recipe.method, build_backbone(recipe.backbone, IMAGES))
    whole.attach(recipe.additions, IMAGES)
    return whole


def supervised(additions: dict[str, Any], backbone: Any = None) -> Method[Any]:
    return made({"name": "supervised", "classes": 3}, additions, backbone)


def batch_of(method: Method[Any]) -> Any:
    kind = method.batch_type.__name__
    if kind == "Episode":
        return toy_episode(images=IMAGES)
    if kind == "LabelledBatch":
        return toy_labelled_batch(images=IMAGES, classes=3)
    return toy_multiview_batch(images=IMAGES, grid=method.backbone.grid(32))  # type: ignore[operator]


CONSTANT = {"schedule": "constant", "pairs": 16, "hidden": 16}
SMALL_HEAD = {"hidden": 32, "bottleneck": 16, "prototypes": 32}
CARRIERS = {
    "supervised": {"name": "supervised", "classes": 3},
    "masked_distillation": {"name": "masked_distillation", "head": SMALL_HEAD},
    "smkd": {"name": "smkd", "head": SMALL_HEAD},
    "protonet": {"name": "protonet"},
    "crosstransformer": {"name": "crosstransformer"},
    "simclr": {"name": "simclr"},
    "moco": {"name": "moco", "head": {"hidden": 16, "output": 8}},
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_drloc_rides_on_every_method_with_tokens(carrier: str) -> None:
    method = made(CARRIERS[carrier], {"drloc": {**CONSTANT, "weight": 0.5}})
    method.begin_step(START)
    torch.manual_seed(1)
    loss, metrics = method(batch_of(method))
    plain = made(CARRIERS[carrier], {})
    plain.begin_step(START)
    torch.manual_seed(1)
    alone = plain(batch_of(plain)).loss
    torch.testing.assert_close(loss, alone + 0.5 * metrics["drloc_l1_cell"])
    assert metrics["drloc_weight"] == 0.5
    loss.backward()
    assert all(p.grad is not None for p in method.additions.parameters())


@pytest.mark.parametrize("backbone", [VIT, CONV])
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "cross_entropy"},
        {"loss": "gaussian", "signed": True},
        {"signed": True, "target_scale": "unit"},
        {"sampling": "permutation", "target_scale": "span"},
        {"layers": "last", "pool": True},
    ],
)
def test_drloc_variants_lower_their_loss(backbone: Any, settings: dict[str, Any]) -> None:
    wide = {**CONSTANT, "pairs": 64, "hidden": 64, "init_std": None, "weight": 1.0}
    method = supervised({"drloc": {**wide, **settings}}, backbone)
    batch, name = batch_of(method), f"drloc_{DRLocConfig(**settings).unit}"
    optimizer = torch.optim.Adam(method.parameters(), 5e-3)
    seen = []
    for _ in range(120):
        method.begin_step(START)
        loss, metrics = method(batch)
        seen.append(float(metrics[name]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(seen[-10:]) < 0.92 * sum(seen[:10]), seen


def test_very_dense_drloc_adds_one_head_per_block() -> None:
    method = supervised({"drloc": {**CONSTANT, "layers": "blocks"}})
    addition = method.additions["drloc"]
    assert isinstance(addition, DRLoc)
    assert len(addition.heads) == 3
    method.begin_step(START)
    torch.manual_seed(0)
    total = method(batch_of(method)).metrics["drloc_l1_cell"]
    assert 3 < total < 9  # about the sum of three losses near the best constant's


def test_only_the_largest_grid_of_a_step_counts() -> None:
    method = made(CARRIERS["masked_distillation"], {"drloc": CONSTANT})
    addition: Any = method.additions["drloc"]
    seen: list[tuple[int, int]] = []
    addition._pairs = lambda images, grid, device: (
        seen.append((images, grid[0])) or torch.zeros(images, 4, 2, dtype=torch.int64)
    )
    batch = batch_of(method)
    method.begin_step(START)
    method(batch)
    assert seen == [(2 * batch.size, 8)]  # the two global views, not the local ones


def test_drloc_weight_follows_its_schedule() -> None:
    method = supervised({"drloc": {"warmup_epochs": 4, "schedule_epochs": 20, "weight": 0.8}})
    weights = []
    for epoch in (0, 2, 4, 12, 20):
        method.begin_step(Progress(epoch * 10, 300, 10))
        weights.append(float(method(batch_of(method)).metrics["drloc_weight"]))
    assert weights == pytest.approx([0, 0.4, 0.8, 0.4, 0])


def test_without_a_planned_end_the_stage_is_the_schedule() -> None:
    method = supervised({"drloc": {"warmup_epochs": 0, "weight": 1.0}})
    method.begin_step(Progress(150, 300, 10))
    assert float(method(batch_of(method)).metrics["drloc_weight"]) == 0.5


@pytest.mark.parametrize("name", ["drloc", "batchformer"])
def test_in_evaluation_additions_do_nothing(name: str) -> None:
    method, plain = supervised({name: {}}).eval(), supervised({}).eval()
    episode = toy_episode(images=IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(method.classify(episode), plain.classify(episode))
        assert torch.equal(method.mix(torch.ones(3, 32)), torch.ones(3, 32))
    assert not any(
        addition._seen[0] for addition in method.additions.values() if isinstance(addition, DRLoc)
    )


def without_dropout(**settings: Any) -> dict[str, Any]:
    return {"batchformer": {"dropout": 0.0, **settings}}


def test_batchformer_learns_from_plain_and_transformed_rows() -> None:
    method = supervised(without_dropout())
    batch = batch_of(method)
    features = method.backbone(batch.images)
    layer = method.additions["batchformer"]
    assert isinstance(layer, BatchFormer)
    rows = torch.cat([features, layer.encoders[0](features)])
    logits = method.class_logits(rows)  # type: ignore[operator]
    expected = F.cross_entropy(logits, torch.cat([batch.labels, batch.labels]))
    torch.testing.assert_close(method(batch).loss, expected)


def test_batchformer_alone_shows_the_classifier_only_transformed_rows() -> None:
    method = supervised(without_dropout(share=False))
    batch = batch_of(method)
    layer: Any = method.additions["batchformer"]
    rows = layer.encoders[0](method.backbone(batch.images))
    expected = F.cross_entropy(method.class_logits(rows), batch.labels)  # type: ignore[operator]
    torch.testing.assert_close(method(batch).loss, expected)


def test_loss_scale_multiplies_the_methods_own_loss_only() -> None:
    riding = {"drloc": CONSTANT}
    one = supervised({**without_dropout(), **riding})
    three = supervised({**without_dropout(loss_scale=3.0), **riding})
    results = []
    for method in (one, three):
        method.begin_step(START)
        torch.manual_seed(3)
        results.append(method(batch_of(method)))
    drloc = 0.5 * results[0].metrics["drloc_l1_cell"]
    torch.testing.assert_close(results[1].loss - drloc, 3 * (results[0].loss - drloc))


def test_gradients_of_one_image_reach_all_others_through_the_layer() -> None:
    for additions, reached in (({}, 1), (without_dropout(), 6)):
        method = supervised(additions)
        features = method.backbone(batch_of(method).images[:6]).detach().requires_grad_()
        method.mix(features)[-6].square().sum().backward()
        assert features.grad is not None
        assert int((features.grad.abs().sum(1) > 0).sum()) == reached


@pytest.mark.parametrize("carrier", ["masked_distillation", "smkd", "moco"])
def test_batchformer_rides_on_self_supervised_methods(carrier: str) -> None:
    method = made(CARRIERS[carrier], without_dropout())
    method.begin_step(START)
    loss = method(batch_of(method)).loss
    loss.backward()
    assert all(p.grad is not None for p in method.additions.parameters())
    plain = made(CARRIERS[carrier], {})
    plain.begin_step(START)
    assert not torch.allclose(loss, plain(batch_of(plain)).loss)


def test_the_keys_of_moco_pass_a_slow_copy_of_the_layer() -> None:
    method: Any = made(CARRIERS["moco"], {"batchformer": {}})
    student = method.additions["batchformer"].encoders[0].layers[0].linear1.weight
    slow = method.teacher_additions["batchformer"].encoders[0].layers[0].linear1.weight
    assert torch.equal(student, slow)
    assert not slow.requires_grad
    with torch.no_grad():
        student.add_(1.0)
    method.begin_step(Progress(0, 100, 10))
    method.after_step(Progress(0, 100, 10))
    torch.testing.assert_close(slow, student - 0.99)
    assert method.mix_teacher(torch.randn(4, 32)).shape == (8, 32)


def test_a_frozen_layer_is_not_trained() -> None:
    method = supervised(without_dropout(frozen=True))
    method(batch_of(method)).loss.backward()
    assert all(p.grad is None for p in method.additions.parameters())


def test_two_streams_run_through_the_rest_of_the_network() -> None:
    method = supervised(without_dropout(after_blocks=[1]))
    batch = batch_of(method)
    sizes: list[int] = []
    blocks: Any = method.backbone.blocks
    for block in blocks:
        block.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    rows = method.backbone(batch.images)
    count = len(batch.images)
    assert sizes == [count, count, 2 * count]
    method.eval()
    torch.testing.assert_close(rows[:count], method.backbone(batch.images))  # the plain stream
    assert not torch.allclose(rows[count:], rows[:count])


def test_later_insertions_leave_the_plain_stream_alone() -> None:
    method = supervised(without_dropout(after_blocks=[0, 2]))
    batch = batch_of(method)
    rows = method.backbone(batch.images)
    method.eval()
    plain = method.backbone(batch.images)
    torch.testing.assert_close(rows[: len(plain)], plain)
    assert len(rows) == 2 * len(plain)
    assert len(method.additions["batchformer"].encoders) == 2  # type: ignore[arg-type]


def test_tokens_attend_across_the_batch_position_by_position() -> None:
    method = supervised(without_dropout(after_blocks=[2]))
    images = batch_of(method).images
    seen: list[Tensor] = []
    method.backbone.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    method.backbone(images)
    layer: Any = method.additions["batchformer"]
    tokens = seen[0][: len(images)]
    expected = torch.stack([layer.encoders[0](tokens[:, i]) for i in range(tokens.shape[1])], 1)
    torch.testing.assert_close(seen[0][len(images) :], expected, atol=1e-5, rtol=1e-5)


REFUSED: list[tuple[Any, Any, Any, str]] = [
    ({"name": "protonet"}, {"batchformer": {}}, VIT, r"rides on .*supervised"),
    (CARRIERS["supervised"], {"batchformer": {"heads": 5}}, VIT, "heads: 5 does not divide"),
    (CARRIERS["supervised"], {"batchformer": {"after_blocks": [7]}}, VIT, "blocks 0 to 2"),
    (CARRIERS["supervised"], {"batchformer": {"after_blocks": [1]}}, CONV, "layers"),
    (CARRIERS["smkd"], {"batchformer": {"after_blocks": [1]}}, VIT, "remove after_blocks"),
    (CARRIERS["supervised"], {"drloc": {"layers": "stages"}}, VIT, "stages"),
]


@pytest.mark.parametrize(("method", "additions", "backbone", "message"), REFUSED)
def test_what_does_not_fit_is_refused(
    method: Any, additions: Any, backbone: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(method, additions, backbone)


@pytest.mark.parametrize(
    ("additions", "message"),
    [
        ({"drlok": {}}, "unknown addition 'drlok'; did you mean 'drloc'"),
        ({"drloc": {"weigth": 1}}, r"additions\.drloc\.weigth: unknown key; did you mean 'weight'"),
        ({"drloc": {"name": "batchformer"}}, "list it under that name"),
        ({"drloc": 3}, "expected a mapping"),
        ({"drloc": {"loss": "gaussian", "target_scale": "unit"}}, "whole cells"),
        ({"batchformer": {"after_blocks": [3, 1]}}, "rising order"),
    ],
)
def test_bad_settings_name_the_key(additions: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        supervised(additions)


def test_class_losses_need_the_grid_they_were_made_for() -> None:
    method = supervised({"drloc": {**CONSTANT, "loss": "cross_entropy"}})
    batch = batch_of(method)
    method.begin_step(START)
    smaller = replace(batch, images=batch.images[..., :16, :16])
    with pytest.raises(ConfigError, match="made for 8 x 8 cells"):
        method(smaller)


def test_every_addition_has_its_settings_class() -> None:
    for name in ADDITIONS.names():
        assert issubclass(ADDITIONS.get(name).Config, AdditionConfig)
        assert ADDITIONS.get(name).Config().name == name
