"""The projection head, shared and separate last layers, forward and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from fsl.heads import HeadConfig, ProjectionHead

if TYPE_CHECKING:
    Archive = Any


def our_name(name: str) -> str:
    """Published parameter name -> ours."""
    for theirs, ours in (
        ("last_layer2.weight_g", "patch_layer.gain"),
        ("last_layer2.weight_v", "patch_layer.direction"),
        ("last_layer.weight_g", "class_layer.gain"),
        ("last_layer.weight_v", "class_layer.direction"),
    ):
        name = name.replace(theirs, ours)
    return name


def loaded_head(archive: Archive) -> ProjectionHead:
    state = {our_name(name): value for name, value in archive.under("param/").items()}
    bottleneck, hidden = state["mlp.4.weight"].shape
    separate = state["patch_layer.gain"].shape[0] if "patch_layer.gain" in state else None
    config = HeadConfig(
        prototypes=state["class_layer.gain"].shape[0],
        patch_prototypes=separate,
        hidden=hidden,
        bottleneck=bottleneck,
    )
    head = ProjectionHead(archive["x"].shape[-1], config)
    head.load_state_dict(state)
    return head


def close(actual: Tensor | None, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.archive("smkd.head")
def test_head_outputs(archive: Archive) -> None:
    head = loaded_head(archive)
    cls, patches = head(archive["x"])
    close(cls, archive["out_cls"])
    close(patches, archive["out_patch"])
    close(head(archive["x2d"]), archive["out2d"])


@pytest.mark.archive("smkd.head")
def test_head_gradients(archive: Archive) -> None:
    head = loaded_head(archive)
    x = archive["x"].requires_grad_()
    cls, patches = head(x)
    torch.autograd.backward([cls, patches], [archive["cot_cls"], archive["cot_patch"]])
    # Gradients reach 70; the tolerance is absolute at 1 and relative above.
    expected = archive["grad_x"]
    torch.testing.assert_close(x.grad, expected, rtol=1e-5, atol=1e-5)
    named = dict(head.named_parameters())
    for name, gradient in archive.under("grad/").items():
        actual = named[our_name(name)].grad
        torch.testing.assert_close(actual, gradient, rtol=1e-5, atol=2e-5, msg=name)
