"""Episodic batch norm: against a loop over tasks, ordinary batch norm, and two processes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from fsl.modules.episodic_norm import EpisodeRows, EpisodicBatchNorm2d, episodic, norm_layer
from fsl.toys import tiny_backbone

TASKS, SUPPORT, QUERIES, CHANNELS = 3, 4, 2, 5
SHOWN = TASKS * SUPPORT
# Forked processes need not import torch again, but cannot run backward where there is a GPU.
START = "spawn" if torch.cuda.is_available() else "fork"


def fresh_layer() -> EpisodicBatchNorm2d:
    generator = torch.Generator().manual_seed(3)
    layer = EpisodicBatchNorm2d(CHANNELS)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
        layer.bias.copy_(torch.randn(CHANNELS, generator=generator))
    return layer


def maps(seed: int = 0) -> Tensor:
    """Rows of TASKS tasks, each with a mean and a scale of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(TASKS * (SUPPORT + QUERIES), CHANNELS, 3, 4, generator=generator)
    task = torch.arange(TASKS, dtype=torch.float32)
    of_row = torch.cat([task.repeat_interleave(SUPPORT), task.repeat_interleave(QUERIES)])
    return (x * (1 + of_row[:, None, None, None]) + of_row[:, None, None, None]).requires_grad_()


def cotangent() -> Tensor:
    return torch.randn(maps().shape, generator=torch.Generator().manual_seed(9))


def task_rows(task: int) -> tuple[slice, slice]:
    first = SHOWN + task * QUERIES
    return slice(task * SUPPORT, (task + 1) * SUPPORT), slice(first, first + QUERIES)


def by_hand(x: Tensor, layer: EpisodicBatchNorm2d) -> Tensor:
    """One task after another, formulas as the paper has them."""
    y = torch.empty_like(x)
    for task in range(TASKS):
        support = x[task_rows(task)[0]]
        mean = support.mean((0, 2, 3), keepdim=True)
        variance = ((support - mean) ** 2).mean((0, 2, 3), keepdim=True)
        for rows in task_rows(task):
            normal = (x[rows] - mean) / (variance + layer.eps).sqrt()
            y[rows] = normal * layer.weight[:, None, None] + layer.bias[:, None, None]
    return y


def gradients(y: Tensor, x: Tensor, layer: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(y, [x, *layer.parameters()], cotangent()))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_several_tasks_at_once_equal_a_loop_with_gradients(
    memory_format: torch.memory_format,
) -> None:
    layer, x = fresh_layer(), maps()
    with episodic(layer, TASKS, SUPPORT):
        y = layer(x.contiguous(memory_format=memory_format))
    assert y.is_contiguous(memory_format=memory_format)
    expected = by_hand(x, layer)
    close(y, expected)
    for actual, wanted in zip(gradients(y, x, layer), gradients(expected, x, layer), strict=True):
        close(actual, wanted, 1e-4)


def test_running_averages_are_of_the_supports_biased_moments() -> None:
    layer, x = fresh_layer(), maps().detach()
    support = x[:SHOWN].view(TASKS, SUPPORT, *x.shape[1:])
    mean = support.mean((1, 3, 4)).mean(0)
    variance = support.var((1, 3, 4), correction=0).mean(0)
    x[SHOWN:] = 1e6  # queries do not count
    with episodic(layer, TASKS, SUPPORT):
        layer(x)
    close(layer.running_mean, 0.1 * mean)
    close(layer.running_var, 0.9 + 0.1 * variance)
    assert layer.num_batches_tracked == 1
    assert not layer.running_mean.requires_grad


def test_a_query_depends_on_its_tasks_support_and_on_no_other_image() -> None:
    layer, x = fresh_layer(), maps()
    with episodic(layer, TASKS, SUPPORT):
        y = layer(x)
    support, queries = task_rows(1)
    (gradient,) = torch.autograd.grad((y[queries][0] ** 3).sum(), x)
    reached = gradient.abs().amax((1, 2, 3)) > 0
    expected = torch.zeros(len(x), dtype=torch.bool)
    expected[support], expected[queries.start] = True, True
    assert torch.equal(reached, expected)


def test_outside_it_is_batch_norm_with_the_biased_running_variance() -> None:
    layer, x = fresh_layer(), maps()
    plain = nn.BatchNorm2d(CHANNELS)
    plain.load_state_dict(layer.state_dict())
    y, expected = layer(x), plain(x)
    assert torch.equal(y, expected)
    for actual, wanted in zip(gradients(y, x, layer), gradients(expected, x, plain), strict=True):
        assert torch.equal(actual, wanted)
    close(layer.running_mean, 0.1 * x.detach().mean((0, 2, 3)))
    close(layer.running_var, 0.9 + 0.1 * x.detach().var((0, 2, 3), correction=0))
    assert layer.state_dict().keys() == plain.state_dict().keys()


def test_evaluation_takes_the_running_averages_inside_and_outside() -> None:
    layer, x = fresh_layer(), maps().detach()
    layer(x)
    before = copy.deepcopy(layer.eval().state_dict())
    plain = nn.BatchNorm2d(CHANNELS).eval()
    plain.load_state_dict(before)
    with episodic(layer, TASKS, SUPPORT):
        assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer(x), plain(x))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_layers_forget_the_layout_also_after_an_error_and_when_nested() -> None:
    first, second = fresh_layer(), fresh_layer()
    both = nn.Sequential(first, second)
    with episodic(both, 1, 2):
        with episodic(both, 2, 1):
            assert first.rows == second.rows == EpisodeRows(2, 1, False)
        assert first.rows == second.rows == EpisodeRows(1, 2, False)
        with pytest.raises(ValueError, match="not 5 tasks"), episodic(both, 5, 1):
            both(maps())
        assert first.rows == second.rows == EpisodeRows(1, 2, False)
    assert first.rows is second.rows is None


@pytest.mark.parametrize(("tasks", "support"), [(4, 4), (3, 7)])
def test_a_layout_that_does_not_fit_the_batch_is_refused(tasks: int, support: int) -> None:
    layer = fresh_layer()
    with (
        episodic(layer, tasks, support),
        pytest.raises(ValueError, match=f"18 images is not {tasks} tasks of {support} support"),
    ):
        layer(maps())


def test_other_backbones_are_left_alone() -> None:
    backbone, images = tiny_backbone(), torch.randn(6, 3, 16, 16)
    with episodic(backbone, 1, 2):
        inside = backbone(images)
    assert torch.equal(inside, backbone(images))


def test_moments_are_float32_under_autocast() -> None:
    layer, x = fresh_layer(), maps().detach() + 50  # bfloat16 moments would be off by far
    convolution = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
    with torch.autocast("cpu", dtype=torch.bfloat16), episodic(layer, TASKS, SUPPORT):
        seen = convolution(x)
        y = layer(seen)
    assert seen.dtype == y.dtype == torch.bfloat16
    close(y.float(), by_hand(seen.float(), layer), 2e-2)


def test_layers_can_be_copied_and_pickled() -> None:
    layer, x = fresh_layer(), maps()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))


def test_norm_layer_makes_the_kind_asked_for() -> None:
    assert type(norm_layer("batch", 3)) is nn.BatchNorm2d
    assert type(norm_layer("episodic", 3)) is EpisodicBatchNorm2d


def half_of_each_task(number: int) -> Tensor:
    """Numbers of the rows that process `number` of two holds when tasks are spread."""
    return torch.cat([torch.arange(s.start + number, s.stop, 2) for s in spans()])


def spans() -> list[slice]:
    rows = [task_rows(task) for task in range(TASKS)]
    return [support for support, _ in rows] + [query for _, query in rows]


def whole_tasks(number: int) -> Tensor:
    """Numbers of the rows of tasks 0 and 1, or of task 2."""
    tasks = ((0, 1), (2,))[number]
    chosen = [task_rows(task)[kind] for kind in (0, 1) for task in tasks]
    return torch.cat([torch.arange(s.start, s.stop) for s in chosen])


def pass_over(rows: Tensor, tasks: int, support: int, across_ranks: bool) -> dict[str, Tensor]:
    """What one process sees: outputs, input gradients and running averages."""
    layer, x = fresh_layer(), maps().detach()[rows].requires_grad_()
    with episodic(layer, tasks, support, across_ranks=across_ranks):
        y = layer(x)
    y.backward(cotangent()[rows])
    assert x.grad is not None
    return {
        "rows": rows,
        "y": y.detach(),
        "grad": x.grad,
        "mean": layer.running_mean,
        "variance": layer.running_var,
    }


def work(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
    )
    try:
        spread = pass_over(half_of_each_task(number), TASKS, SUPPORT // 2, True)
        torch.save(spread, Path(folder) / f"spread-{number}.pt")
        whole = pass_over(whole_tasks(number), (2, 1)[number], SUPPORT, False)
        torch.save(whole, Path(folder) / f"whole-{number}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_equal_one_with_tasks_spread_or_whole(tmp_path: Path) -> None:
    start_processes(work, (str(tmp_path),), nprocs=2, start_method=START)  # type: ignore[no-untyped-call]
    expected = pass_over(torch.arange(len(maps())), TASKS, SUPPORT, False)
    for kind in ("spread", "whole"):
        parts = [torch.load(tmp_path / f"{kind}-{number}.pt") for number in range(2)]
        order = torch.cat([part["rows"] for part in parts]).argsort()
        for name in ("y", "grad"):
            close(torch.cat([part[name] for part in parts])[order], expected[name])
        for part in parts:
            close(part["mean"], expected["mean"])
            close(part["variance"], expected["variance"])
