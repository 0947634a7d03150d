"""A lack of memory is told apart, says what helps, and lets go of what was held."""

from __future__ import annotations

import weakref
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from fsl.config import build
from fsl.errors import OutOfMemoryError
from pipelines.candidates import Candidate
from pipelines.competitors import Questions, competitors
from pipelines.features import computed
from pipelines.memory import lacks_memory, memory_explained
from pipelines.stages.evaluate import EvaluateConfig
from tests.toy_training import episodic_config, toy_config

PETABYTE = 10**15


def test_torch_s_own_failure_on_this_machine_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(PETABYTE)
    assert lacks_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("index 11 is out of bounds for dimension 0 with size 2"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_signs(error: Exception, lacks: bool) -> None:
    assert lacks_memory(error) == lacks


def test_the_remedy_names_the_settings() -> None:
    with (
        pytest.raises(
            OutOfMemoryError, match=r"data\.batch_size \(24 images\), or set data\.micro"
        ),
        memory_explained(toy_config()),
    ):
        torch.empty(PETABYTE)
    with (
        pytest.raises(OutOfMemoryError, match=r"MemoryError; lower episodes\.per_step \(4 tasks\)"),
        memory_explained(episodic_config()),
    ):
        raise MemoryError


VARIABLE = {"name": "variable", "min_ways": 2, "max_ways": 3, "per_step": 4, "per_epoch": 8}


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"episodes__per_step": 1}, "episodes.ways, episodes.shots or episodes.queries"),
        ({"method__simclr_fraction": 0.5}, "episodes.ways, episodes.shots or episodes.queries"),
        (
            {"episodes": VARIABLE},
            "episodes.max_support, episodes.max_ways or episodes.max_queries",
        ),
    ],
)
def test_where_tasks_pass_one_by_one_only_smaller_ones_help(
    changes: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(OutOfMemoryError) as caught, memory_explained(episodic_config(**changes)):
        raise MemoryError
    assert str(caught.value) == f"out of memory: MemoryError; lower {remedy}"


def test_a_pass_over_images_names_its_batch_size() -> None:
    def large(images: Tensor) -> Tensor:
        return images.new_empty(PETABYTE)

    message = r"out of memory: .*; lower batch_size \(a batch here had 3 images\)"
    with pytest.raises(OutOfMemoryError, match=message):
        computed(large, [torch.zeros(3, 1, 8, 8)], torch.device("cpu"))


def test_other_faults_pass() -> None:
    with pytest.raises(RuntimeError, match="a bug"), memory_explained(toy_config()):
        raise RuntimeError("a bug")


class Held:
    """Something large."""


def test_what_the_frames_held_is_gone_while_the_error_lives() -> None:
    held: list[weakref.ref[Held]] = []

    def train() -> None:
        large = Held()
        held.append(weakref.ref(large))
        torch.empty(PETABYTE)

    with pytest.raises(OutOfMemoryError) as caught, memory_explained(toy_config()):
        train()
    assert caught.value.__cause__ is not None
    assert held[0]() is None


class _TooLarge(Candidate):
    """Keeps more of every image than its device has room for."""

    @cached_property
    def features(self) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 60.00 GiB.\nmore")


@pytest.mark.parametrize("protocol", ["method", "ridge"])
def test_a_lack_while_answering_names_who_answers_and_what_to_lower(protocol: str) -> None:
    rows = torch.arange(8).reshape(1, 2, 4)
    asked = Questions(torch.arange(8) // 4, torch.tensor([[0, 1]]), rows[..., :2], rows[..., 2:])
    settings = build(EvaluateConfig, {"protocols": [protocol]}).protocols
    (competitor,) = competitors(_TooLarge("large", "digest"), settings, 0)
    message = (
        rf"out of memory: CUDA out of memory. Tried to allocate 60.00 GiB.; 'large' answers with "
        rf"protocol '{protocol}' about 8 images; lower tasks, queries, shots or ways"
    )
    with pytest.raises(OutOfMemoryError, match=message):
        competitor.answer(asked)
