"""Two real gloo processes keep the centres of one process that saw all images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from fsl.distributed import all_reduce_mean, rank, world_size
from fsl.heads import HeadConfig
from fsl.methods.smkd import SMKD, SMKDConfig
from fsl.testing import TOY_IMAGES, tiny_backbone, toy_multiview_batch
from fsl.types import MultiViewBatch, Progress


def part_of(batch: MultiViewBatch, number: int, parts: int) -> MultiViewBatch:
    """Images number, number + parts, ... of a batch."""

    def cut(x: Tensor) -> Tensor:
        return x.view(-1, batch.size, *x.shape[1:])[:, number::parts].flatten(0, 1)

    labels = batch.labels[number::parts]
    return MultiViewBatch(
        cut(batch.global_views), cut(batch.local_views), cut(batch.masks), labels, len(labels)
    )


def centers_of(batch: MultiViewBatch) -> Tensor:
    """Both centres after one step without an optimizer."""
    torch.manual_seed(0)
    config = SMKDConfig(head=HeadConfig(prototypes=16, hidden=32, bottleneck=8))
    method: nn.Module = SMKD(config, tiny_backbone(TOY_IMAGES))
    progress = Progress(0, 10, 5)
    method.before_step(progress)
    method(batch)
    method.after_step(progress)
    return torch.cat([method.center, method.patch_center])


def toy_batch() -> MultiViewBatch:
    torch.manual_seed(1)
    return toy_multiview_batch(
        images=TOY_IMAGES, grid=tiny_backbone(TOY_IMAGES).grid(TOY_IMAGES.size)
    )


def work(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
    )
    try:
        assert (rank(), world_size()) == (number, 2)
        centers = centers_of(part_of(toy_batch(), number, 2))
        torch.save(centers, Path(folder) / f"{number}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_have_the_centres_of_one(tmp_path: Path) -> None:
    # Forked: no second and third import of torch.
    mp.start_processes(work, args=(str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, centers_of(toy_batch()), rtol=1e-5, atol=1e-7)


def test_on_one_process_everything_is_a_no_op() -> None:
    values = torch.randn(3, requires_grad=True)
    assert (rank(), world_size()) == (0, 1)
    mean = all_reduce_mean(values)
    assert not mean.requires_grad
    assert torch.equal(mean, values.detach())
