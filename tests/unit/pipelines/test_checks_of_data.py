"""What only the data show is found before hours of training, not after."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from data_shards.location import Location
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.config import build
from fsl.errors import ConfigError
from pipelines.runner import PipelineConfig, StageEvent, plan, run_pipeline
from tests.toy_study import RECIPE

SOURCE = RECIPE["stages"]["shards"]["source"]
FEW = {"queries": 12}  # besides one shot; a class has 12 images


def recipe(run: Path, shards: dict[str, Any], **evaluate: Any) -> PipelineConfig:
    stages = copy.deepcopy(RECIPE["stages"])
    stages["shards"] = shards
    stages["evaluate"] |= evaluate
    return build(PipelineConfig, {"run_dir": str(run), "stages": stages})


def test_shards_that_are_there_are_looked_into_before_anything_runs(tmp_path: Path) -> None:
    write_shards(build(StrokesConfig, SOURCE), Location.parse(tmp_path / "set"), progress=False)
    shards = {"kind": "use_shards", "path": str(tmp_path / "set")}
    with pytest.raises(ConfigError, match=r"stages\.evaluate .*of which 0 have the 13 images"):
        plan(recipe(tmp_path / "run", shards, **FEW))
    with pytest.raises(ConfigError, match=r"stages\.evaluate .*nowhere"):
        plan(recipe(tmp_path / "run", shards, split="nowhere"))
    plan(recipe(tmp_path / "run", shards))


def test_new_shards_are_looked_into_before_training(tmp_path: Path) -> None:
    config = recipe(tmp_path, {"kind": "write_shards", "source": SOURCE}, **FEW)
    events: list[StageEvent] = []
    with pytest.raises(ConfigError, match=r"stages\.evaluate .*of which 0 have the 13 images"):
        run_pipeline(config, events.append)
    assert [(event.stage.label, event.state) for event in events] == [
        ("shards", "started"), ("shards", "done"),
    ]  # fmt: skip
    assert plan(recipe(tmp_path, {"kind": "write_shards", "source": SOURCE}))["shards"].result
