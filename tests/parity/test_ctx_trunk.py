"""CrossTransformers' trunk: episodic batch norm, residual blocks and the whole ResNet-34.

The archives are channel-last, kernels are (rows, columns, in, out).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fsl.backbones.resnet34_ctx import BasicBlock, ResNet34CTX, ResNet34CTXConfig
from fsl.images import ImageSpec
from fsl.modules.episodic_norm import EpisodicBatchNorm2d, Norm, episodic

if TYPE_CHECKING:
    Archive = Any

BLOCK_NAMES = {
    "conv1/weight": "conv1.weight",
    "conv1/batch_norm": "norm1",
    "conv2/weight": "conv2.weight",
    "conv2/batch_norm": "norm2",
    "identity/projection_conv/weight": "shortcut.0.weight",
    "identity/projection_conv/batch_norm": "shortcut.1",
}


def close(actual: Tensor | None, expected: Tensor, atol: float = 1e-5, rtol: float = 0) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def channel_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).contiguous()


def channel_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def gradient_of(y: Tensor, x: Tensor, cotangent: Tensor) -> Tensor:
    """Channel-last gradient of channel-first x."""
    return channel_last(torch.autograd.grad(y, x, cotangent)[0])


def ours(name: str, value: Tensor) -> Tensor:
    """Kernels -> (out, in, rows, columns); scales and offsets, of any shape, -> (C,)."""
    return value.permute(3, 2, 0, 1) if name.endswith("/weight") else value.flatten()


def name_in_block(name: str) -> str:
    """Published name within a block -> ours."""
    name = re.sub("/scale$", ".weight", re.sub("/offset$", ".bias", name))
    for theirs, mine in BLOCK_NAMES.items():
        name = re.sub(f"^{theirs}", mine, name)
    return name


def name_in_trunk(name: str) -> str:
    """Published name of the trunk -> ours."""
    name = name.split("/", 1)[1]
    found = re.fullmatch(r"conv(\d+)_x/bottleneck_(\d+)/(.+)", name)
    if found:
        stage, block, rest = int(found[1]) - 2, found[2], found[3]
        return f"stages.{stage}.{block}.{name_in_block(rest)}"
    return name_in_block(name).replace("conv1", "stem").replace("norm1", "stem_norm")


def load(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load all parameters; only the running averages stay as they are."""
    result = module.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    buffers = {name for name, _ in module.named_buffers()}
    assert set(result.missing_keys) <= buffers


@pytest.fixture
def norm(archive: Archive) -> EpisodicBatchNorm2d:
    """The layer of an archive of kind ctx.bn_episodic."""
    eps, momentum = archive.number("cfg/eps"), 1 - archive.number("cfg/ema_decay")
    layer = EpisodicBatchNorm2d(archive["in/support"].shape[-1], eps=eps, momentum=momentum)
    names = {
        "scale": "weight",
        "offset": "bias",
        "mean_ema": "running_mean",
        "var_ema": "running_var",
    }
    load(layer, {names[name]: value for name, value in archive.under("param/").items()})
    return layer


def both_sets(archive: Archive) -> Tensor:
    return torch.cat([channel_first(archive[f"in/{part}"]) for part in ("support", "query")])


@pytest.mark.archive("ctx.bn_episodic")
def test_queries_are_normalised_by_the_supports_moments(
    archive: Archive, norm: EpisodicBatchNorm2d
) -> None:
    support = len(archive["in/support"])
    x = both_sets(archive).requires_grad_()
    with episodic(norm, 1, support):
        y = channel_last(norm(x))
    close(y[:support], archive["train/support"])
    close(y[support:], archive["train/query_with_support_moments"])
    close(norm.running_mean, archive["after_one_update/mean_ema"])
    close(norm.running_var, archive["after_one_update/var_ema"])

    gradient = gradient_of(y[support:], x, archive["in/cotangent_query"])
    close(gradient[:support], archive["grad_of_query_output/support"])
    close(gradient[support:], archive["grad_of_query_output/query"])


@pytest.mark.archive("ctx.bn_episodic")
def test_support_alone_as_an_ordinary_batch(archive: Archive, norm: EpisodicBatchNorm2d) -> None:
    close(channel_last(norm(channel_first(archive["in/support"]))), archive["train/support"])
    close(norm.running_mean, archive["after_one_update/mean_ema"])
    close(norm.running_var, archive["after_one_update/var_ema"])


@pytest.mark.archive("ctx.bn_episodic")
def test_evaluation_uses_running_averages(archive: Archive, norm: EpisodicBatchNorm2d) -> None:
    norm.eval()
    support = len(archive["in/support"])
    with episodic(norm, 1, support):
        y = channel_last(norm(both_sets(archive)))
    close(y[:support], archive["eval/support"])
    close(y[support:], archive["eval/query"])


@pytest.mark.archive("ctx.block")
@pytest.mark.parametrize("norm_kind", get_args(Norm))
def test_residual_blocks(archive: Archive, norm_kind: Norm) -> None:
    stride, first, second, project = archive["cfg/stride_inrate_outrate_project"].tolist()
    block = BasicBlock(
        archive["in/x"].shape[-1],
        archive["out/y"].shape[-1],
        stride=stride,
        rates=(first, second),
        project=bool(project),
        norm=norm_kind,
    )
    load(block, {name_in_block(k): ours(k, v) for k, v in archive.under("param/").items()})
    x = channel_first(archive["in/x"]).requires_grad_()
    with episodic(block, 1, len(x)):
        y = channel_last(block(x))
    close(y, archive["out/y"], atol=5e-6)
    gradient = gradient_of(y, x, archive["in/cotangent"])
    close(gradient, archive["grad/x"], atol=5e-6)


def trunk_of(archive: Archive) -> ResNet34CTX:
    """The network that the names and shapes of the archive's variables and outputs describe."""
    names = [str(name) for name in archive.array("var/names")]
    shapes = [[int(n) for n in re.findall(r"\d+", str(s))] for s in archive.array("var/shapes")]
    widths, blocks = {}, dict.fromkeys(range(4), 0)
    for name, shape in zip(names, shapes, strict=True):
        found = re.search(r"conv(\d+)_x/bottleneck_\d+/conv1/weight$", name)
        if found:
            stage = int(found[1]) - 2
            widths[stage], blocks[stage] = shape[-1], blocks[stage] + 1
    size = archive["in/support_seed_uniform"][1].item()
    trunk = ResNet34CTX(
        ResNet34CTXConfig.model_validate(
            {
                "stride": size // archive["out/support"].shape[1],
                "widths": [widths[stage] for stage in range(4)],
                "blocks": [blocks[stage] for stage in range(4)],
            }
        ),
        ImageSpec(size=size),
    )
    seed = archive["in/support_seed_uniform"][0].item() + 1
    load(trunk, drawn_weights(archive, names, shapes, seed))
    return trunk


def drawn_weights(
    archive: Archive, names: list[str], shapes: list[list[int]], seed: int
) -> dict[str, Tensor]:
    """The weights of the archive, drawn again from its seed; refuses another stream."""
    random = np.random.RandomState(seed)
    state = {}
    for i, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        value = random.randn(*shape)
        if name.endswith("/weight"):
            value *= np.sqrt(2 / np.prod(shape[:3]))
        else:
            value = 0.1 * value + name.endswith("/scale")
        drawn = value.astype(np.float32)
        assert drawn.ravel()[0] == archive.array("var/first")[i]
        checksum = archive.array("var/checksum")[i]
        assert drawn.sum(dtype=np.float64) == pytest.approx(checksum, rel=1e-6, abs=1e-4)
        state[name_in_trunk(name)] = ours(name, torch.from_numpy(drawn))
    return state


@pytest.mark.archive("ctx.resnet34")
def test_the_whole_trunk(archive: Archive) -> None:
    trunk = trunk_of(archive)
    seed, size, *counts = archive["in/support_seed_uniform"].tolist()
    random = np.random.RandomState(seed)
    drawn = [random.uniform(-1, 1, (count, size, size, 3)) for count in counts]
    images = torch.from_numpy(np.concatenate(drawn).astype(np.float32))
    with torch.no_grad(), episodic(trunk, 1, counts[0]):
        patches = trunk.tokens(channel_first(images)).patches
    cells = patches.view(sum(counts), *trunk.grid(size), -1)
    support, query = torch.split(cells, counts)
    close(support, archive["out/support"], atol=1e-3)
    close(query, archive["out/query"], atol=1e-3)
