"""A file of weights to start from: its content makes the key, its place does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.backbones.resnet import ResNetConfig
from fsl.config import build, digest, fingerprint
from fsl.errors import ConfigError
from pipelines.model import fresh_method
from pipelines.runner import PipelineConfig, plan
from pipelines.session import LocalSession
from pipelines.stage import STAGES
from pipelines.stages.train import run_digest
from pipelines.train_config import TrainConfig
from pipelines.trainer import Trainer
from tests.toy_study import RECIPE
from tests.toy_training import toy_config, toy_spec

VIT = {"name": "vit", "size": "micro", "width": 16, "depth": 1, "heads": 2, "patch": 4}


def toy(pretrained: object) -> TrainConfig:
    return toy_config(
        backbone={**VIT, "pretrained": pretrained}, validation__every_epochs=0, optim__epochs=1
    )


def write_weights(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    save_file(fresh_method(toy(None)).backbone.state_dict(), path)
    return str(path)


def keys(pretrained: str | None, shards: ShardSet) -> tuple[str, str]:
    """Return the identity of a stage and that of its checkpoints."""
    config = toy(pretrained)
    return STAGES.get("train")(config).key(["input"]), run_digest(config, shards, None)


def test_the_content_is_in_the_keys_and_the_place_is_not(
    tiny_shards: ShardSet, tmp_path: Path
) -> None:
    path = write_weights(tmp_path / "a.safetensors", 1)
    before = keys(path, tiny_shards)
    assert keys(str(Path(path).rename(tmp_path / "b.safetensors")), tiny_shards) == before
    after = keys(write_weights(tmp_path / "a.safetensors", 2), tiny_shards)
    random = keys(None, tiny_shards)
    for each in range(2):
        assert len({before[each], after[each], random[each]}) == 3


def test_keys_without_a_file_stay_as_they_were(tiny_shards: ShardSet) -> None:
    config = toy("vit_tiny_patch16_224")
    parts = {"settings": fingerprint(config), "data": tiny_shards.digest, "init": None}
    assert run_digest(config, tiny_shards, None) == digest(parts)
    kind = STAGES.get("train")
    whole = {"kind": "train", "version": kind.version, "inputs": [], "data": ""}
    assert kind(config).key([]) == digest({**whole, "settings": fingerprint(config)})


def test_a_missing_file_is_refused_with_the_plan(tmp_path: Path) -> None:
    backbone = ResNetConfig(depth=18, pretrained=str(tmp_path / "none.pth")).model_dump()
    tree: dict[str, Any] = {"run_dir": str(tmp_path), **RECIPE}
    with pytest.raises(ConfigError, match=r"stages\.first .*backbone\.pretrained: .*none\.pth"):
        plan(build(PipelineConfig, tree, {"stages.first.backbone": backbone}))


def test_a_run_goes_on_from_its_checkpoint_without_the_file(
    tiny_shards: ShardSet, tmp_path: Path
) -> None:
    path = Path(write_weights(tmp_path / "a.safetensors", 1))
    spec = toy_spec(toy(str(path)), tiny_shards, tmp_path / "run")
    Trainer(spec, LocalSession(spec.out)).fit()
    path.unlink()
    again = Trainer(spec, LocalSession(Location.parse(tmp_path / "run")))
    assert again.start == again.total_steps
