"""Validation asks the network that is saved, and gives no accuracy to one that diverged."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_shards.manifest import ShardSet, Split
from fsl.backbones.conv4 import Conv4, Conv4Config
from fsl.distributed import rank, world_size
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.method import Method
from fsl.methods.supervised import Supervised, SupervisedConfig
from pipelines.validation import ClassValidator
from tests.toy_training import IMAGES
from tests.unit.fsl.test_distributed import forks, in_two_processes

SPEC = ImageSpec.model_validate(IMAGES)


def validated(split: Split) -> dict[str, Tensor]:
    """The accuracy, and the buffers afterwards; each process begins with its own."""
    torch.manual_seed(0)
    backbone = Conv4(Conv4Config(width=8, pool="mean"), SPEC)
    method: Method[Any] = Supervised(SupervisedConfig(classes=12), backbone)
    generator = torch.Generator().manual_seed(rank())
    for buffer in backbone.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.1, 1, generator=generator)
    validator = ClassValidator(split, SPEC, rank=rank(), world_size=world_size())
    score = validator.score(method, torch.device("cpu"), nullcontext())
    return {"accuracy": torch.tensor(score.mean), **dict(method.named_buffers())}


@forks
def test_two_processes_validate_the_network_of_the_first(
    tiny_shards: ShardSet, tmp_path: Path
) -> None:
    split = tiny_shards.split("base")
    expected = validated(split)
    for found in in_two_processes(partial(validated, split), tmp_path):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_diverged_network_has_no_accuracy(tiny_shards: ShardSet) -> None:
    split = tiny_shards.split("base")
    method = Supervised(
        SupervisedConfig(classes=12), Conv4(Conv4Config(width=8, pool="mean"), SPEC)
    )
    method.classifier.weight.data.fill_(torch.nan)
    with pytest.raises(ConfigError, match="score rows are not finite: the model has diverged"):
        ClassValidator(split, SPEC).score(method, torch.device("cpu"), nullcontext())
