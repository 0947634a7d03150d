"""A lack of memory is told apart, says what helps, and lets go of what was held."""

from __future__ import annotations

import weakref

import pytest
import torch

from fsl.errors import OutOfMemoryError
from pipelines.memory import lacks_memory, memory_explained
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
        pytest.raises(OutOfMemoryError, match=r"MemoryError; lower episodes\.per_step"),
        memory_explained(episodic_config()),
    ):
        raise MemoryError


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
