"""AWGIM against the release: forward, gradients, clipping and steps of training.

The release normalises over all tokens of a task (`norm: episode`); dropout is off, noise given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from fsl.methods.awgim import AWGIM, AWGIMConfig
from fsl.modules.information_attention import Shots
from fsl.modules.weight_generator import Tasks, Terms
from fsl.optimization import (
    clip_value_then_norm_,
    outer_epsilon,
    parameter_groups,
    unscaled_decay,
)

if TYPE_CHECKING:
    Archive = Any

pytestmark = pytest.mark.archive("awgim")


@pytest.fixture
def network(archive: Archive) -> Archive:
    """An archive of the network; `awgim.adamw` and its like begin with the same word."""
    if archive.kind != "awgim":
        pytest.skip(f"{archive.kind} is tested elsewhere")
    return archive


RENAMED = {
    "CA_encoder/layer_out": "paths.attentive_encoder.1.weight",
    "SA_encoder/layer_out": "paths.context_encoder.1.weight",
    "decodermlp_weight/layer_0": "generator.hidden.weight",
    "decodermlp_weight/layer_out": "generator.output.weight",
    "recontructed_s/layer_0": "generator.support_decoder.1.weight",
    "recontructed_s/layer_out": "generator.support_decoder.3.weight",
    "recontructed_q/layer_0": "generator.query_decoder.1.weight",
    "recontructed_q/layer_out": "generator.query_decoder.3.weight",
}
BLOCKS = {
    "context_CA": "attentive_support",
    "query_CA": "attentive_query",
    "context_SA": "context_support",
}
BLOCK_PARTS = {
    "LayerNorm/gamma": "norm.gain",
    "LayerNorm/beta": "norm.offset",
    "LayerNorm_1/gamma": "mlp_norm.gain",
    "LayerNorm_1/beta": "mlp_norm.offset",
}
HEAD_PARTS = {"wq": "query", "wk": "key", "wv": "value", "wo": "out"}


def ours(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by released name -> by our name: kernels transposed."""
    found: dict[str, Tensor] = {}
    for name, value in theirs.items():
        if name.removesuffix("/kernel") in RENAMED:
            found[RENAMED[name.removesuffix("/kernel")]] = value.T
            continue
        block, part = name.split("/", 1)
        prefix = f"paths.{BLOCKS[block]}."
        if part in BLOCK_PARTS:
            found[prefix + BLOCK_PARTS[part]] = value
        elif head := re.fullmatch(r"(w[qkvo])(\d+)/kernel", part):
            found[f"{prefix}{HEAD_PARTS[head[1]]}.heads.{head[2]}"] = value.T
        else:
            layer = "1" if "layer_0" in part else "3"
            found[f"{prefix}mlp.{layer}.weight"] = value.T
    return found


class Vectors(nn.Module):
    """Stands for the backbone; the parity tests give features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


def loaded_method(archive: Archive) -> AWGIM:
    *_, features, width = archive.array("cfg/dims_b_n_k_q_d_h").tolist()
    weights = archive.array("cfg/lambdas").tolist()
    parameters = archive.under("param/")
    config = AWGIMConfig(
        width=width,
        heads=sum(re.fullmatch(r"query_CA/wq\d+/kernel", name) is not None for name in parameters),
        dropout=0.0,
        lambda_support=weights[0],
        lambda_support_reconstruction=weights[1],
        lambda_query_reconstruction=weights[2],
        norm="episode",
    )
    method = AWGIM(config, Vectors(features))
    method.load_state_dict(ours(parameters))
    return method


def tasks_of(archive: Archive) -> Tasks:
    return Tasks(
        archive["in/support"].flatten(1, 2).requires_grad_(),
        archive["in/support_label"].flatten(1).long(),
        archive["in/query"].flatten(1, 2).requires_grad_(),
        archive["in/query_label"].flatten(1).long(),
        archive["in/support"].shape[1],
    )


def terms_of(method: AWGIM, tasks: Tasks, archive: Archive, kind: str) -> tuple[Terms, Tensor]:
    noise = archive["in/eps"]
    terms = method.terms(tasks, noise if kind == "sampled" else torch.zeros_like(noise))
    settings = method.config
    loss = (
        terms.query
        + settings.lambda_support * terms.support
        + settings.lambda_support_reconstruction * terms.support_reconstruction
        + settings.lambda_query_reconstruction * terms.query_reconstruction
    )
    return terms, loss


def close(actual: Tensor, expected: Tensor, relative: float, what: str) -> None:
    """Within `relative` of the largest element."""
    expected = expected.reshape(actual.shape)
    atol = relative * float(expected.abs().max())
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=atol, msg=lambda text: f"{what}: {text}"
    )


@pytest.mark.parametrize("kind", ["mean", "sampled"])
def test_losses_and_probabilities(network: Archive, kind: str) -> None:
    terms, loss = terms_of(loaded_method(network), tasks_of(network), network, kind)
    close(terms.logits.softmax(-1), network[f"{kind}/query_prob"], 1e-5, "query_prob")
    for name, value in (
        ("query_loss", terms.query),
        ("support_loss", terms.support),
        ("recon_support", terms.support_reconstruction),
        ("recon_query", terms.query_reconstruction),
        ("loss", loss),
    ):
        close(value, network[f"{kind}/{name}"], 1e-5, name)


def test_paths_mean_weights_and_folded_logits(network: Archive) -> None:
    method, tasks = loaded_method(network).eval(), tasks_of(network)
    shots = Shots.of(tasks.support_labels, tasks.ways)
    paths = method.paths(tasks.support, shots, tasks.query)
    # The archive's contextual path is per support item, before the mean over the shots.
    per_item = network["mid/ctx_path"].reshape(*tasks.support.shape[:2], -1)
    close(paths.context, shots.mean @ per_item, 1e-5, "ctx_path")
    close(paths.attentive, network["mid/att_path"], 1e-5, "att_path")
    close(method.generator.weights(paths), network["mean/class_weights"], 1e-5, "class_weights")
    folded = method.logits(tasks.support, tasks.support_labels, tasks.query, tasks.ways)
    close(folded.softmax(-1), network["mean/query_prob"], 1e-5, "query_prob")


@pytest.mark.parametrize("kind", ["mean", "sampled"])
def test_gradients(network: Archive, kind: str) -> None:
    method, tasks = loaded_method(network), tasks_of(network)
    terms_of(method, tasks, network, kind)[1].backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in method.named_parameters()}
    for name, expected in ours(network.under(f"{kind}/grad/")).items():
        gradient = gradients[name]
        assert gradient is not None, name
        close(gradient, expected, 1e-4, name)
    for name, features in (("support", tasks.support), ("query", tasks.query)):
        if f"{kind}/grad_in/{name}" in network:
            assert features.grad is not None
            close(features.grad, network[f"{kind}/grad_in/{name}"], 1e-4, name)


def test_steps_of_training(network: Archive) -> None:
    method, tasks = loaded_method(network), tasks_of(network)
    decay, rates = network.number("train/weight_decay_per_step"), network.array("train/lr_schedule")
    groups = parameter_groups(method, decay, decay_all=True)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999))
    for step, rate in enumerate(rates.tolist()):
        loss = terms_of(method, tasks, network, "sampled")[1]
        close(loss, network[f"train/loss_before_step_{step}"], 1e-5, f"loss of step {step}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_value_then_norm_(method.parameters(), 0.1)
        if step == 0:
            for name, expected in ours(network.under("sampled/clipped/")).items():
                clipped = dict(method.named_parameters())[name].grad
                assert clipped is not None
                close(clipped, expected, 1e-4, name)
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate, unscaled_decay(decay, rate)
            group["eps"] = outer_epsilon(1e-8, 0.999, step)
        optimizer.step()
    for name, expected in ours(network.under("train/param_after/")).items():
        actual = method.state_dict()[name]
        torch.testing.assert_close(actual, expected, rtol=0, atol=3e-6, msg=name)
