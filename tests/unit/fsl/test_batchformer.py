"""BatchFormer on methods: rows, classifiers, copies, and two streams within the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.additions.batchformer import BatchFormer
from fsl.types import Progress
from tests.riding import CARRIERS, CONSTANT, START, batch_of, made, supervised


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
