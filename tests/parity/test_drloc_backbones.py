"""CvT and T2T-ViT against the reference's miniatures, kinds drloc.cvt, drloc.t2t(_sinusoid)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsl.backbones import TokenBackbone
from fsl.backbones.cvt import CvT, CvTConfig
from fsl.backbones.t2t import T2T, T2TConfig, sinusoid_table
from fsl.images import ImageSpec

if TYPE_CHECKING:
    Archive = Any

HEAD_WIDTH = 64  # of CvT, whatever its width
T2T_HEADS = 2  # of the miniature: the README says so, no weight does

assert_close = partial(torch.testing.assert_close, rtol=0.0, atol=1e-5)
close_gradients = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


class Step(NamedTuple):
    """One training step of the reference's whole model."""

    grid: Tensor
    logits: Tensor
    ce: Tensor
    total: Tensor


def cvt_name(key: str) -> str:
    """Our name of a parameter of the reference's CvT."""
    first, stage, part, *rest = key.split(".")
    assert first == "layers"
    ends = {"g": "weight", "b": "bias"}
    if part != "2":
        return f"stages.{stage}.{part}.{ends.get(rest[0], rest[0])}"
    _, block, half, *inner = rest
    ours = f"stages.{stage}.{2 + int(block)}"
    if inner[0] == "norm":
        return f"{ours}.norm{int(half) + 1}.{ends[inner[1]]}"
    if half == "1":
        layer = {"0": 0, "3": 2}[inner[2]]
        return f"{ours}.mlp.{layer}.{inner[3]}"
    if inner[1] == "to_out":
        return f"{ours}.attention.out.{inner[3]}"
    which = {"to_q": "query", "to_kv": "key_value"}[inner[1]]
    return f"{ours}.attention.{which}.{'.'.join(inner[3:])}"


def build_cvt(weights: dict[str, Tensor], size: int) -> CvT:
    stages = range(3)
    entries = [weights[f"layers.{i}.0.weight"] for i in stages]
    pre = "layers.{}.2.layers.{}"
    inner = [weights[pre.format(i, "0.0.fn.to_q.net.2.weight")].shape[0] for i in stages]
    hidden = weights[pre.format(0, "0.1.fn.net.0.weight")].shape[0]
    depths = [
        len({key.split(".")[4] for key in weights if key.startswith(f"layers.{i}.2.layers.")})
        for i in stages
    ]
    config = CvTConfig.model_validate(
        {
            "widths": [len(entry) for entry in entries],
            "depths": depths,
            "heads": [width // HEAD_WIDTH for width in inner],
            "kernels": [entry.shape[-1] for entry in entries],
            "mlp_ratio": hidden / len(entries[0]),
        }
    )
    backbone = CvT(config, ImageSpec(size=size))
    state = {
        cvt_name(key): value.flatten() if key.endswith((".g", ".b")) else value
        for key, value in weights.items()
        if key.startswith("layers.")
    }
    backbone.load_state_dict(state)
    return backbone


def build_t2t(weights: dict[str, Tensor], size: int) -> T2T:
    width = weights["cls_token"].shape[-1]
    config = T2TConfig(
        width=width,
        depth=len({key.split(".")[1] for key in weights if key.startswith("blocks.")}),
        heads=T2T_HEADS,
        token_width=weights["tokens_to_token.attention1.w"].shape[1],
        mlp_ratio=len(weights["blocks.0.mlp.fc1.weight"]) / width,
        dropout=0.0,
    )
    backbone = T2T(config, ImageSpec(size=size))
    own = {key: value for key, value in weights.items() if not key.startswith(("head.", "drloc."))}
    missing, unexpected = backbone.load_state_dict(own, strict=False)
    assert (missing, unexpected) == (["masked_embed"], [])
    return backbone


def step(archive: Archive, backbone: TokenBackbone, heads: Mapping[str, Tensor], mlp: str) -> Step:
    """Run the reference's training step, with the map that our tap sees."""
    (tap,) = backbone.taps()
    seen: list[tuple[Tensor, tuple[int, int]]] = []
    handle = tap.module.register_forward_hook(
        lambda _module, _inputs, output: seen.append(tap.cells(output))
    )
    features = backbone.train()(archive["x"])
    handle.remove()
    assert tap.place == "output"
    assert tap.pooled
    cells, (rows, columns) = seen[0]
    maps = cells.mT.reshape(len(cells), -1, rows, columns)
    grid = F.avg_pool2d(maps, 3, 2, 1, count_include_pad=False)  # (n, D, k, k)
    logits = F.linear(features, heads["head.weight"], heads["head.bias"])
    ce = F.cross_entropy(logits, archive["y"])
    x = torch.cat([gathered(grid, archive[name]) for name in ("pxs", "pys")], -1)
    for layer in (0, 2, 4):
        x = F.linear(x, heads[f"{mlp}.{layer}.weight"], heads[f"{mlp}.{layer}.bias"])
        x = F.relu(x) if layer < 4 else x
    pred = x.flatten(0, 1)
    assert_close(pred, archive["pred"])
    return Step(grid, logits, ce, ce + archive.number("lam") * F.l1_loss(pred, archive["delta"]))


def gathered(grid: Tensor, places: Tensor) -> Tensor:
    """Return the cells (n, m, D) of maps (n, D, k, k) at rows and columns (n, m, 2)."""
    flat = places[..., 0].long() * grid.shape[-1] + places[..., 1].long()
    return torch.stack([cells.flatten(1).mT[i] for cells, i in zip(grid, flat, strict=True)])


def check(archive: Archive, backbone: TokenBackbone, names: dict[str, str], mlp: str) -> None:
    """Compare all the archive's numbers; `names` maps the reference's parameters to ours."""
    weights = archive.under("w.")
    heads = {
        key: nn.Parameter(value) for key, value in weights.items() if key.startswith(("head", mlp))
    }
    out = step(archive, backbone, heads, mlp)
    for key, value in out._asdict().items():
        assert_close(value, archive[key])
    out.total.backward()  # type: ignore[no-untyped-call]
    for key, norm in archive.under("gnorm.").items():
        parameter = heads[key] if key in heads else backbone.get_parameter(names[key])
        assert parameter.grad is not None
        close_gradients(parameter.grad.norm(), norm)
    first = backbone.get_parameter(names[str(archive.array("first_grad_name"))]).grad
    assert first is not None
    close_gradients(first, archive["first_grad"])


@pytest.mark.archive("drloc.cvt")
def test_cvt_step(archive: Archive) -> None:
    weights = archive.under("w.")
    backbone = build_cvt(weights, archive["x"].shape[-1])
    names = {key: cvt_name(key) for key in weights if key.startswith("layers.")}
    check(archive, backbone, names, "drloc.0.layers")


@pytest.mark.archive("drloc.t2t")
def test_t2t_step(archive: Archive) -> None:
    weights = archive.under("w.")
    backbone = build_t2t(weights, archive["x"].shape[-1])
    check(archive, backbone, {key: key for key in weights}, "drloc.layers")


@pytest.mark.archive("drloc.t2t_sinusoid")
def test_positions_of_t2t(archive: Archive) -> None:
    for end in ("", "2"):
        table = sinusoid_table(archive.integer(f"n{end}"), archive.integer(f"d{end}"))
        assert_close(table, archive[f"table{end}"])
