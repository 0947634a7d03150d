"""Two real gloo processes compute what one process does that has all images."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from fsl.distributed import all_reduce_mean, all_reduce_sum, gather_rows, rank, world_size
from fsl.heads import HeadConfig
from fsl.methods.simclr import ProjectorConfig, SimCLR, SimCLRConfig
from fsl.methods.smkd import SMKD, SMKDConfig
from fsl.testing import TOY_IMAGES, tiny_backbone, toy_multiview_batch
from fsl.types import MultiViewBatch, Progress
from pipelines.loader_processes import PRELOADED

PROCESSES = 2
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_two_processes(work: Callable[[], Any], folder: Path) -> list[Any]:
    """Return what `work` returns in each process."""
    # forks of a server that has imported torch: those of a process with threads may crash
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])
    start_processes(_process, args=(work, str(folder)), nprocs=PROCESSES, start_method="forkserver")
    return [torch.load(folder / f"{number}.pt") for number in range(PROCESSES)]


def _process(number: int, work: Callable[[], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=PROCESSES
    )
    try:
        assert (rank(), world_size()) == (number, PROCESSES)
        torch.save(work(), Path(folder) / f"{number}.pt")
    finally:
        dist.destroy_process_group()


def own_part(batch: MultiViewBatch) -> MultiViewBatch:
    """Images rank, rank + 2, ... of a batch; all of it on one process."""

    def cut(x: Tensor) -> Tensor:
        return x.view(-1, batch.size, *x.shape[1:])[:, rank() :: world_size()].flatten(0, 1)

    labels = batch.labels[rank() :: world_size()]
    return MultiViewBatch(
        cut(batch.global_views), cut(batch.local_views), cut(batch.masks), labels, len(labels)
    )


def toy_batch(size: int) -> MultiViewBatch:
    grid = tiny_backbone(TOY_IMAGES).grid(TOY_IMAGES.size)
    return toy_multiview_batch(images=TOY_IMAGES, grid=grid, size=size)


def centers() -> Tensor:
    """Both centres of SMKD after one step without an optimizer."""
    torch.manual_seed(0)
    config = SMKDConfig(head=HeadConfig(prototypes=16, hidden=32, bottleneck=8))
    method = SMKD(config, tiny_backbone(TOY_IMAGES))
    progress = Progress(0, 10, 5)
    method.before_step(progress)
    method(own_part(toy_batch(4)))
    method.after_step(progress)
    return torch.cat([method.center, method.patch_center])


@forks
def test_two_processes_have_the_centres_of_one(tmp_path: Path) -> None:
    first, second = in_two_processes(centers, tmp_path)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, centers(), rtol=1e-5, atol=1e-7)


def simclr_step(labels: Literal["ignore", "use"]) -> dict[str, Tensor]:
    """The weighted loss of this process's images and the gradients that the trainer gets."""
    size = 7  # 4 images on one process, 3 on the other
    torch.manual_seed(0)
    head = ProjectorConfig(layers=3, hidden=12, output=8, norm="batch")
    method = SimCLR(SimCLRConfig(head=head, labels=labels), tiny_backbone(TOY_IMAGES)).double()
    model = DistributedDataParallel(method) if world_size() > 1 else method
    batch = own_part(toy_batch(size))
    views = batch.global_views.double()
    loss, metrics = model(
        MultiViewBatch(views, batch.local_views, batch.masks, batch.labels, batch.size)
    )
    weight = batch.size * world_size() / size
    (loss * weight).backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    numbers = {"loss": loss.detach(), "accuracy": metrics["accuracy"]}
    return {name: value * weight for name, value in numbers.items()} | gradients


@forks
@pytest.mark.parametrize("labels", ["ignore", "use"])
def test_two_processes_have_the_contrastive_loss_and_gradients_of_one(
    labels: Literal["ignore", "use"], tmp_path: Path
) -> None:
    first, second = in_two_processes(partial(simclr_step, labels), tmp_path)
    expected = simclr_step(labels)
    assert len(expected) > 20
    for name, value in expected.items():
        mean = (first[name] + second[name]) / PROCESSES
        torch.testing.assert_close(mean, value, rtol=1e-9, atol=1e-12, msg=name)


def gathered() -> dict[str, Tensor]:
    """Rows and sums over processes, and the gradients of a loss that weights them."""
    number = rank()
    rows = torch.arange(2.0 + number).add(10 * number).view(-1, 1).expand(-1, 2)
    rows = rows.clone().requires_grad_()
    values, start = gather_rows(rows)
    total = all_reduce_sum(3 * rows.sum(0))
    weights = torch.arange(5.0).view(5, 1) * (number + 1)
    ((weights * values).sum() + (number + 1) * total.sum()).backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    keys = gather_rows(torch.arange(1 + number))
    return {
        "values": values.detach(),
        "total": total.detach(),
        "grad": rows.grad,
        "place": torch.tensor([start, keys.start]),
        "keys": keys.values,
    }


@forks
def test_rows_of_unequal_processes_are_gathered_in_order_and_gradients_come_back(
    tmp_path: Path,
) -> None:
    first, second = in_two_processes(gathered, tmp_path)
    everything = torch.tensor([0.0, 1, 10, 11, 12]).view(5, 1).expand(5, 2)
    # Process r weights row i by (r + 1) * i, so 3 * i together, and its sum by r + 1.
    gradient = (3 * torch.arange(5.0) + 3 * 3).view(5, 1).expand(5, 2)
    for number, found in enumerate((first, second)):
        assert torch.equal(found["values"], everything)
        assert torch.equal(found["total"], torch.full((2,), 3.0 * 34))
        assert torch.equal(found["grad"], gradient[:2] if number == 0 else gradient[2:])
        assert found["place"].tolist() == [2 * number, number]
        assert found["keys"].tolist() == [0, 0, 1]


def test_on_one_process_everything_is_a_no_op() -> None:
    values = torch.randn(3, requires_grad=True)
    assert (rank(), world_size()) == (0, 1)
    mean = all_reduce_mean(values)
    assert not mean.requires_grad
    assert torch.equal(mean, values.detach())
    assert all_reduce_sum(values) is values
    assert gather_rows(values) == (values, 0)
