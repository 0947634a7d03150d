"""Two real gloo processes attend over the batch as one process does that has all samples."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fsl.distributed import gather_rows, rank, world_size
from fsl.modules.batch_attention import BatchAttention
from tests.unit.fsl.test_distributed import forks, in_two_processes

WIDTH = 8
SIZES = {"equal": (4, 4), "unequal": (5, 2), "one": (6, 1)}


def attention(layers: int, scope: Literal["device", "global"] = "global") -> BatchAttention:
    torch.manual_seed(0)
    return BatchAttention(WIDTH, heads=2, layers=layers, dropout=0.0, scope=scope).double()


def all_rows(count: int, positions: tuple[int, ...] = ()) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *positions, WIDTH, dtype=torch.float64, generator=generator)


def step(sizes: tuple[int, int], layers: int, positions: tuple[int, ...]) -> dict[str, Any]:
    """This process's outputs, and the gradients of the mean loss over all samples.

    The loss weights samples and features unequally, so that none can stand for another.
    """
    rows = all_rows(sum(sizes), positions)
    own = torch.split(rows, list(sizes))[rank()] if world_size() > 1 else rows
    own = own.clone().requires_grad_()
    module = attention(layers, "global" if world_size() > 1 else "device")
    model = DistributedDataParallel(module) if world_size() > 1 else module
    out = model(own)
    asked = torch.sin(torch.arange(rows.numel(), dtype=torch.float64)).view_as(rows)
    asked = torch.split(asked, list(sizes))[rank()] if world_size() > 1 else asked
    loss = (asked * out).flatten(1).sum(1).mean()
    (loss * len(own) * world_size() / sum(sizes)).backward()
    assert own.grad is not None
    # Inputs are not averaged over processes as parameters are.
    return {
        "out": out.detach(),
        "grad_in": own.grad / world_size(),
        "parameters": {name: p.grad for name, p in module.named_parameters()},
    }


@forks
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("positions", [(), (3,)], ids=["rows", "positions"])
def test_outputs_and_all_gradients_are_those_of_one_process(
    sizes: tuple[int, int], layers: int, positions: tuple[int, ...], tmp_path: Path
) -> None:
    work = partial(step, sizes, layers, positions)
    parts, expected = in_two_processes(work, tmp_path), work()
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
    for name in ("out", "grad_in"):
        close(torch.cat([part[name] for part in parts]), expected[name])
    assert len(expected["parameters"]) == 12 * layers
    for part in parts:
        for name, value in expected["parameters"].items():
            close(part["parameters"][name], value, msg=name)


def device_scope() -> Tensor:
    out: Tensor = attention(1, "device")(torch.split(all_rows(7), [5, 2])[rank()])
    return out.detach()


@forks
def test_with_device_scope_each_process_sees_its_own_samples(tmp_path: Path) -> None:
    parts, module = in_two_processes(device_scope, tmp_path), attention(1, "device")
    for own, part in zip(torch.split(all_rows(7), [5, 2]), parts, strict=True):
        torch.testing.assert_close(part, module(own))
    whole = module(all_rows(7))
    assert (torch.cat(parts) - whole).abs().max() > 0.1


def dropped() -> Tensor:
    """The output of two layers with dropout, gathered, and its gradient."""
    torch.manual_seed(10 + rank())
    module = BatchAttention(WIDTH, heads=2, layers=2, dropout=0.5, scope="global")
    own = torch.split(all_rows(6).float(), 3)[rank()].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(own.bfloat16())
    out.float().square().sum().backward()
    assert own.grad is not None
    return torch.cat([gather_rows(out.detach().float()).values, own.grad])


@forks
def test_dropout_and_mixed_precision_work_over_processes(tmp_path: Path) -> None:
    first, second = in_two_processes(dropped, tmp_path)
    assert torch.isfinite(first).all()
    assert torch.equal(first[:6], second[:6])
    assert first[6:].abs().sum() > 0
