"""Seeing and changing the tensors at a backbone's taps while it works."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from fsl.backbones import Tap


def listen(tap: Tap, see: Callable[[Tensor], None]) -> None:
    """Call `see` with the tap's tensor in every pass."""
    replace(tap, partial(_unchanged, see))


def replace(tap: Tap, change: Callable[[Tensor], Tensor]) -> None:
    """Let the network go on with what `change` makes of the tap's tensor, in every pass."""
    if tap.place == "input":
        tap.module.register_forward_pre_hook(partial(_on_input, change))
    else:
        tap.module.register_forward_hook(partial(_on_output, change))


def _unchanged(see: Callable[[Tensor], None], tensor: Tensor) -> Tensor:
    see(tensor)
    return tensor


def _on_input(
    change: Callable[[Tensor], Tensor], module: nn.Module, inputs: tuple[Any, ...]
) -> tuple[Any, ...]:
    del module
    return change(inputs[0]), *inputs[1:]


def _on_output(
    change: Callable[[Tensor], Tensor], module: nn.Module, inputs: tuple[Any, ...], output: Tensor
) -> Tensor:
    del module, inputs
    return change(output)
