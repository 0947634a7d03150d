"""A process without images of its own keeps step with the others and changes nothing for them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fsl.distributed import all_reduce_sum, gather_rows, rank, row_counts, standing_in, world_size
from fsl.heads import HeadConfig
from fsl.method import Method
from fsl.methods.moco import MoCo, MoCoConfig, MoCoHeadConfig
from fsl.methods.simclr import ProjectorConfig, SimCLR, SimCLRConfig
from fsl.methods.smkd import SMKD, SMKDConfig
from fsl.testing import TOY_IMAGES, tiny_backbone
from fsl.types import MultiViewBatch, Progress
from tests.unit.fsl.test_distributed import forks, in_two_processes, toy_batch


def simclr() -> Method[Any]:
    head = ProjectorConfig(layers=3, hidden=12, output=8, norm="batch")
    return SimCLR(SimCLRConfig(head=head), tiny_backbone(TOY_IMAGES))


def moco() -> Method[Any]:
    return MoCo(MoCoConfig(head=MoCoHeadConfig(hidden=12, output=8)), tiny_backbone(TOY_IMAGES))


def first_images(batch: MultiViewBatch, size: int) -> MultiViewBatch:
    def cut(x: Tensor) -> Tensor:
        return x.view(-1, batch.size, *x.shape[1:])[:, :size].flatten(0, 1)

    views, local = (cut(x).double() for x in (batch.global_views, batch.local_views))
    return MultiViewBatch(views, local, cut(batch.masks), batch.labels[:size], size)


def step(make: Any, real: tuple[bool, bool]) -> dict[str, Tensor]:
    """The gradients that the trainer gets; a process without images takes one at no weight."""
    torch.manual_seed(0)
    method = make().double()
    model = DistributedDataParallel(method) if world_size() > 1 else method
    batch = first_images(toy_batch(3), 3 if real[rank()] else 1)
    with ExitStack() as contexts:
        if not real[rank()]:
            contexts.enter_context(standing_in())
        loss = model(batch).loss
        (loss * world_size() * real[rank()]).backward()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)


@forks
@pytest.mark.parametrize("make", [simclr, moco])
@pytest.mark.parametrize("real", [(True, False), (False, True)], ids=["first", "second"])
def test_repetitions_are_no_negatives_of_the_other_process(
    make: Any, real: tuple[bool, bool], tmp_path: Path
) -> None:
    expected = step(make, (True, True))
    assert len(expected) > 20
    for found in in_two_processes(partial(step, make, real), tmp_path):
        same(found, expected)


@forks
@pytest.mark.parametrize("make", [simclr, moco])
def test_where_all_stand_in_gradients_are_zero(make: Any, tmp_path: Path) -> None:
    for found in in_two_processes(partial(step, make, (False, False)), tmp_path):
        assert all(torch.equal(value, torch.zeros_like(value)) for value in found.values())


def centers() -> Tensor:
    """Both centres of SMKD after a step; the second process repeats an image."""
    torch.manual_seed(0)
    config = SMKDConfig(head=HeadConfig(prototypes=16, hidden=32, bottleneck=8))
    method = SMKD(config, tiny_backbone(TOY_IMAGES)).double()
    progress = Progress(0, 10, 5)
    method.before_step(progress)
    with ExitStack() as contexts:
        if rank():
            contexts.enter_context(standing_in())
        method(first_images(toy_batch(3), 1 if rank() else 3))
    method.after_step(progress)
    return torch.cat([method.center, method.patch_center])


@forks
def test_repetitions_do_not_move_the_centres(tmp_path: Path) -> None:
    expected = centers()
    for found in in_two_processes(centers, tmp_path):
        torch.testing.assert_close(found, expected)


def received() -> dict[str, Any]:
    rows = torch.full((2, 3), 1.0 + rank())
    with ExitStack() as contexts:
        if rank() == 0:
            contexts.enter_context(standing_in())
        values, start = gather_rows(rows)
        sums = all_reduce_sum(rows.sum(0))
        counts = row_counts(rows)
    after = row_counts(rows)
    return {"values": values, "start": start, "sums": sums, "counts": counts, "after": after}


@forks
def test_it_receives_sums_and_rows_and_adds_none(tmp_path: Path) -> None:
    for number, found in enumerate(in_two_processes(received, tmp_path)):
        assert torch.equal(found["values"], torch.full((2, 3), 2.0))
        assert torch.equal(found["sums"], torch.full((3,), 4.0))
        assert found["start"] == (2, 0)[number]
        assert (found["counts"], found["after"]) == ([0, 2], [2, 2])


def test_alone_there_is_always_a_row_to_compare_with() -> None:
    rows = torch.randn(2, 3)
    with standing_in():
        assert gather_rows(rows) == (rows, 0)
        assert torch.equal(all_reduce_sum(rows), torch.zeros(2, 3))
    assert all_reduce_sum(rows) is rows
