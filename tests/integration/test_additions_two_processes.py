"""BatchFormer beside DistributedDataParallel: two processes learn what one learns from all."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fsl.distributed import rank, world_size
from fsl.types import LabelledBatch
from tests.riding import START, batch_of, supervised
from tests.unit.fsl.test_distributed import forks, in_two_processes

RIDING: dict[str, dict[str, Any]] = {
    "features": {},
    "features, not shared": {"share": False},
    "two streams": {"after_blocks": [1]},
    "two streams, twice": {"after_blocks": [0, 2]},
    "transformed stream only": {"after_blocks": [1], "share": False},
}


def step(settings: dict[str, Any]) -> dict[str, Tensor]:
    """Loss, and the gradients that the optimizer sees; this process has every other image."""
    method = supervised({"batchformer": {"dropout": 0.0, "scope": "global", **settings}})
    method.begin_step(START)
    whole = batch_of(method)
    model: Any = method
    if world_size() > 1:
        model = DistributedDataParallel(
            method, find_unused_parameters=not method.uses_all_parameters
        )
    own = slice(rank(), None, world_size())
    batch = LabelledBatch(whole.images[own], whole.labels[own])
    loss = model(batch).loss
    loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    return {"loss": loss.detach(), **gradients}  # type: ignore[dict-item]


@forks
@pytest.mark.parametrize("settings", RIDING.values(), ids=RIDING)
def test_two_processes_have_the_gradients_of_one(settings: dict[str, Any], tmp_path: Path) -> None:
    parts, expected = in_two_processes(partial(step, settings), tmp_path), step(settings)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
    close((parts[0]["loss"] + parts[1]["loss"]) / 2, expected["loss"])
    for part in parts:
        assert part.keys() == expected.keys()
        for name in set(expected) - {"loss"}:
            close(part[name], expected[name], msg=lambda text, name=name: f"{name}: {text}")
