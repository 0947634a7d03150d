"""BatchFormer against the reference: layer, classifier, losses, MoCo step, long-tailed sets.

Dropout is zero in all archives.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.long_tail import grouped_accuracy, imbalanced_counts, select_images
from fsl.losses.balanced_softmax import balanced_softmax_loss, log_counts
from fsl.methods.moco import MoCo, MoCoConfig, MoCoHeadConfig
from fsl.modules.batch_attention import BatchAttention, EncoderLayer
from fsl.types import MultiViewBatch, Progress

if TYPE_CHECKING:
    Archive = Any

HEADS = 4
"""Where the archive does not say."""
LAYER_PREFIXES = ("encoder_layers.", "enc.")


def close(actual: Tensor, expected: Tensor, what: str, rtol: float = 0.0) -> None:
    torch.testing.assert_close(
        actual, expected, rtol=rtol, atol=1e-5, msg=lambda text: f"{what}: {text}"
    )


def close_gradients(module: nn.Module, expected: dict[str, Tensor]) -> None:
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        close(found[name], value, f"gradient of {name}", 1e-4)


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def gradient(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


def by_layer(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of one encoder layer, or of several, -> ours."""
    return {
        name if name.startswith("layers.") else f"layers.0.{name}": value
        for name, value in theirs.items()
    }


def attention(weights: dict[str, Tensor], heads: int = HEADS) -> BatchAttention:
    """Return the module that has these weights; every size is read from them."""
    named = by_layer(weights)
    layers = len({name.split(".")[1] for name in named})
    width = named["layers.0.norm1.weight"].shape[0]
    module = BatchAttention(width, heads=heads, layers=layers, dropout=0.0)
    module.load_state_dict(named)
    return module


@pytest.mark.archive("batchformer.encoder")
def test_encoder(archive: Archive) -> None:
    module = attention(archive.under("w."), archive.integer("heads"))
    x = archive["x"].requires_grad_()
    y = module(x)
    close(y, archive["y"], "y")
    backward((y * archive["up_grad"]).sum())
    close(gradient(x), archive["grad_x"], "grad_x", 1e-4)
    close_gradients(module, by_layer(archive.under("gw.")))


@pytest.mark.archive("batchformer.attention")
def test_attention_weights(archive: Archive) -> None:
    module, x = attention(archive.under("w.")), archive["x"]
    close(module(x), archive["y"], "y")
    cells = x.unsqueeze(1)
    layer = module.layers[0]
    assert isinstance(layer, EncoderLayer)
    query, keys, _ = layer.self_attn.project(cells, cells)
    weights = F.scaled_dot_product_attention(query, keys, torch.eye(len(x)))  # (1, h, N, N)
    close(weights.mean((0, 1)), archive["attention_mean_over_heads"], "weights")


class Classified(nn.Module):
    """The layer and a linear classifier, named as the archives name them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        layer = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        self.layer = attention(self.renamed(layer, ""))
        self.fc = nn.Linear(weights["fc.weight"].shape[1], weights["fc.weight"].shape[0])
        self.fc.weight.data, self.fc.bias.data = weights["fc.weight"], weights["fc.bias"]

    @staticmethod
    def renamed(theirs: dict[str, Tensor], start: str = "layer.layers.0.") -> dict[str, Tensor]:
        pattern = "|".join(re.escape(prefix) for prefix in LAYER_PREFIXES)
        return {re.sub(f"^({pattern})", start, name): value for name, value in theirs.items()}


@pytest.mark.archive("batchformer.shared_classifier")
def test_shared_classifier(archive: Archive) -> None:
    model, x = Classified(archive.under("w.")), archive["x"].requires_grad_()
    logits = model.fc(torch.cat([x, model.layer(x)]))
    labels = archive["y"].repeat(2)
    assert torch.equal(labels, archive["train_labels"])
    close(logits, archive["train_logits"], "logits")
    loss = F.cross_entropy(logits, labels)
    close(loss, archive["loss"], "loss")
    backward(loss)
    close(gradient(x), archive["grad_x"], "grad_x", 1e-4)
    close_gradients(model, model.renamed(archive.under("gw.")))
    close(model.fc(x), archive["eval_logits"], "evaluation without the layer")


@pytest.mark.archive("batchformer.no_share")
def test_without_sharing(archive: Archive) -> None:
    model, x = Classified(archive.under("w.")), archive["x"].requires_grad_()
    logits = model.fc(model.layer(x))
    close(logits, archive["train_logits"], "logits")
    loss = F.cross_entropy(logits, archive["y"])
    close(loss, archive["loss"], "loss")
    backward(loss)
    close(gradient(x), archive["grad_x"], "grad_x", 1e-4)
    close_gradients(model, model.renamed(archive.under("gw.")))


@pytest.mark.archive("batchformer.balanced_softmax")
def test_balanced_softmax(archive: Archive) -> None:
    logits, labels = archive["logits"].requires_grad_(), archive["y"]
    counts = log_counts(archive["freq"])
    loss = balanced_softmax_loss(logits, labels, counts)
    close(loss, archive["loss"], "loss")
    each = balanced_softmax_loss(logits, labels, counts, reduction="none")
    close(each, archive["loss_none"], "loss of each")
    backward(loss)
    close(gradient(logits), archive["grad_logits"], "gradient", 1e-4)


@pytest.mark.archive("batchformer.longtail_step")
def test_long_tail_step_is_three_times_the_joint_mean(archive: Archive) -> None:
    model, x = Classified(archive.under("w.")), archive["x"].requires_grad_()
    size, counts = len(x), log_counts(archive["freq"])
    logits = model.fc(torch.cat([x, model.layer(x)]))  # ours: plain rows first
    close(logits.roll(size, 0), archive["logits_bf_first"], "logits")
    labels = archive["y"].repeat(2)
    assert torch.equal(labels, archive["labels"])
    losses = balanced_softmax_loss(logits, labels, counts, reduction="none")
    close(losses[:size].mean(), archive["loss_plain_half"].float(), "plain half")
    close(losses[size:].mean(), archive["loss_bf_half"].float(), "transformed half")
    joint = balanced_softmax_loss(logits, labels, counts)
    close(joint, archive["loss_joint_mean"], "joint mean")
    close(3 * joint, archive["loss_official_sum"], "official sum")
    backward(joint)
    close(gradient(x), archive["grad_x_joint"], "grad_x", 1e-4)
    close(3 * gradient(x), archive["grad_x_official"], "official grad_x", 1e-4)
    close_gradients(model, model.renamed(archive.under("gjoint.")))


@pytest.mark.archive("batchformer.v2_two_stream")
def test_two_streams_over_positions(archive: Archive) -> None:
    weights = archive.under("w.")
    first, second = (
        attention({name[len(start) :]: v for name, v in weights.items() if name.startswith(start)})
        for start in ("first.encoder_layers.", "second.encoder_layers.")
    )
    x = archive["x"].requires_grad_()
    transformed = first(x)
    close(transformed, archive["out_first"], "first insertion")
    streams = torch.cat([x, transformed])
    close(streams, archive["two_stream_in"], "streams")
    plain, transformed = torch.split(streams, len(x))
    out = torch.cat([plain, second(transformed)])
    close(out, archive["out_second"], "second insertion")
    backward((out * archive["up_grad"]).sum())
    close(gradient(x), archive["grad_x"], "grad_x", 1e-4)
    for module, start in ((first, "first."), (second, "second.")):
        expected = archive.under(f"gw.{start}encoder_layers.")
        close_gradients(module, by_layer(expected))


class Body(nn.Sequential):
    """The encoder of the MoCo archive."""

    def __init__(self, weight: Tensor) -> None:
        self.features, width = weight.shape
        super().__init__(nn.Linear(width, self.features), nn.ReLU())


class Mixed(MoCo):
    """As the release: one frozen layer, the same in both branches."""

    layer: BatchAttention

    def mix(self, features: Tensor) -> Tensor:
        return torch.cat([features, self.layer(features)])

    mix_teacher = mix


def moco_names(archive: Archive, prefix: str) -> dict[str, Tensor]:
    """Tensors by our names; running statistics and the layer's copies are left out."""
    parts = {
        r"(base|momentum)_encoder\.body\.": "backbone.0.",
        r"(base|momentum)_encoder\.fc\.(\d+)\.": "projector.{}.",
        r"predictor\.(\d+)\.": "predictor.{}.",
    }
    found = {}
    for name, value in archive.under(prefix).items():
        if "encoder_layers" in name or re.search(r"running_|num_batches", name):
            continue
        for pattern, ours in parts.items():
            if match := re.match(pattern, name):
                place = int(match.groups()[-1]) if match.groups()[-1].isdigit() else 0
                start = ours.format(place - 1 if "fc" in pattern else place)
                part = name[match.end() :]
                if value.ndim == 1 and part == "weight":
                    part = "gain"  # of a norm
                found["teacher_" * name.startswith("momentum") + start + part] = value
    return found


@pytest.mark.archive("batchformer.mocov3")
def test_moco_step(archive: Archive) -> None:
    weights = moco_names(archive, "w.")
    hidden, features = weights["projector.0.weight"].shape
    head = MoCoHeadConfig(hidden=hidden, output=weights["projector.3.weight"].shape[0])
    config = MoCoConfig(
        temperature=archive.number("T"),
        momentum=archive.number("momentum"),
        final_momentum=archive.number("momentum"),
        head=head,
    )
    method = Mixed(config, Body(weights["backbone.0.weight"]))
    missing = method.load_state_dict(weights, strict=False)
    # The last norm has neither gain nor bias there; ours are fixed at 1 and 0.
    fixed = {f"{who}projector.4.{part}" for who in ("", "teacher_") for part in ("gain", "bias")}
    assert set(missing.missing_keys) == fixed
    assert not missing.unexpected_keys
    assert features == method.backbone.features
    layer = attention(archive.under("w.encoder_global.encoder_layers."))
    method.layer = layer.requires_grad_(False)

    method.before_step(Progress(0, 10, 10))
    method.after_step(Progress(0, 10, 10))  # the release moves the copy before it makes keys
    moved = method.teacher_backbone.get_parameter("0.weight")
    close(moved, archive["after_momentum_body"], "copy")
    views = torch.cat([archive["x1"], archive["x2"]])
    size = len(archive["x1"])
    batch = MultiViewBatch(views, views[:0], views[:0].bool(), torch.arange(size), size)
    loss = method(batch).loss
    close(loss, archive["loss"], "loss")
    backward(loss)
    close_gradients(method, moco_names(archive, "gw."))


@pytest.mark.archive("batchformer.shot_split")
def test_shot_split(archive: Archive) -> None:
    counts = np.bincount(archive.array("train_labels"))
    found = grouped_accuracy(archive["preds"], archive["labels"], counts)
    assert list(found[1:]) == pytest.approx(archive.array("many_medium_few").tolist(), abs=1e-12)
    right = (archive["preds"] == archive["labels"]).double().mean()
    assert found.overall == pytest.approx(float(right))


@pytest.mark.archive("batchformer.cifar_lt")
def test_cifar_lt_counts(archive: Archive) -> None:
    named = [key for key in archive.keys if re.fullmatch(r"(exp|step)_\d+_\d+", key)]
    assert named
    for key in named:
        kind, classes, ratio = key.split("_")
        expected = archive.array(key)
        assert kind in {"exp", "step"}
        counts = imbalanced_counts(
            int(expected[0]), int(classes), int(ratio), "exp" if kind == "exp" else "step"
        )
        assert np.array_equal(counts, expected), key


@pytest.mark.archive("batchformer.cifar_lt")
def test_cifar_lt_selection(archive: Archive) -> None:
    labels = archive.array("sel_labels")
    seed = archive.integer("sel_seed")
    chosen = select_images(labels, archive.array("sel_counts"), seed, published=True)
    assert np.array_equal(chosen, archive.array("sel_index"))
    assert np.array_equal(labels[chosen], archive.array("sel_targets"))
