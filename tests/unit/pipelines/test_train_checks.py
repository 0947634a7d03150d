"""What a train stage refuses before anything runs: with the plan, or once its data are there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.config import build
from fsl.errors import ConfigError, StageError
from pipelines.runner import PipelineConfig, plan
from pipelines.train_checks import check_data, warn_of_data
from pipelines.training_data import training_pools
from tests.toy_study import RECIPE, pretrained_elsewhere
from tests.toy_training import episodic_config, toy_config

STAGES: dict[str, Any] = RECIPE["stages"]


def planned(tmp_path: Path, **changes: Any) -> None:
    """Plan the toy recipe; `changes` are dotted keys of its stages with __ for the dot."""
    values = {f"stages.{key.replace('__', '.')}": value for key, value in changes.items()}
    plan(build(PipelineConfig, {"run_dir": str(tmp_path), **RECIPE}, values))


def test_the_toy_recipe_is_good(tmp_path: Path) -> None:
    planned(tmp_path)


def test_validation_on_classes_that_are_trained_on_is_refused(tmp_path: Path) -> None:
    both = {"second__data__split": ["base", "val"]}
    message = r"stages\.second .*validation\.split: 'val' is trained on by stage 'second' \(data"
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path, **both)
    planned(tmp_path, **both, second__validation__every_epochs=0)
    planned(tmp_path, **both, second__validation__split="novel")


def test_validation_on_classes_of_an_earlier_training_is_refused(tmp_path: Path) -> None:
    earlier = {"first__data__split": "val", "first__validation__every_epochs": 0}
    with pytest.raises(ConfigError, match=r"stages\.second .*trained on by stage 'first'"):
        planned(tmp_path, **earlier)


def test_an_earlier_training_on_other_images_is_no_matter(tmp_path: Path) -> None:
    plan(build(PipelineConfig, {"run_dir": str(tmp_path), "stages": pretrained_elsewhere()}))


def test_other_images_of_the_trained_classes_are_no_validation_in_tasks(tmp_path: Path) -> None:
    source = StrokesConfig(
        size=16, images=4, held_out_images=8, characters=6,
        base_alphabets=1, val_alphabets=1, novel_alphabets=0,
    )  # fmt: skip
    shards = write_shards(source, Location.parse(tmp_path / "shards"), progress=False)
    config = episodic_config(validation__split="held_out", episodes__shots=1)
    with pytest.raises(StageError, match=r"validation\.split: 'held_out'.* 6 classes .*trained on"):
        check_data(config, shards)
    check_data(episodic_config(validation__split="val", validation__queries=3), shards)
    check_data(toy_config(validation__split="held_out", validation__every_epochs=0), shards)


def test_classes_that_are_too_small_for_the_tasks_are_warned_of(
    tiny_shards: ShardSet, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_data(episodic_config(), tiny_shards)
    assert not caplog.records
    config = episodic_config(data__select={"long_tail": {"ratio": 4}})
    (pool,) = training_pools(config, tiny_shards)
    small = sum(count < 1 + 2 for count in pool.class_rows().counts)
    assert 0 < small < 12
    warn_of_data(config, tiny_shards)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{small} of 12 classes of split 'base' have fewer than 3 images and are never drawn; "
        "lower episodes.shots or episodes.queries"
    )


def test_more_workers_than_tasks_of_a_step_are_refused(tmp_path: Path) -> None:
    workers = {"second__cluster": {"workers": [1, 2]}}
    with pytest.raises(ConfigError, match=r"second .*per_step: 1 tasks cannot be shared by 2 work"):
        planned(tmp_path, **workers)
    planned(tmp_path, **workers, second__episodes__per_step=2)


def test_a_method_that_cannot_be_made_on_its_network_is_refused(tmp_path: Path) -> None:
    method = {"second__method": {"name": "crosstransformer", "key_dim": 4, "value_dim": 4}}
    backbone = {"name": "conv4", "width": 4, "halvings": 3}
    planned(tmp_path, **method, first__backbone__pool="mean")
    with pytest.raises(ConfigError, match=r"stages\.second .*patches of images, Conv4 has none"):
        planned(tmp_path, **method, first__backbone=backbone)


def test_a_method_without_weights_is_not_trained_on_a_feature_table(tmp_path: Path) -> None:
    stages = copy.deepcopy(STAGES)
    del stages["second"]["init"], stages["second"]["method"]["view"], stages["evaluate"]
    stages = {
        "shards": stages["shards"],
        "first": stages["first"],
        "features": {"kind": "extract_features", "needs": ["shards", "first"]},
        "second": {**stages["second"], "needs": ["features"]},
    }
    tree = {"run_dir": str(tmp_path), "stages": stages}
    with pytest.raises(ConfigError, match=r"stages\.second .*ProtoNet has nothing to train"):
        plan(build(PipelineConfig, tree))
    plan(build(PipelineConfig, tree, {"stages.second.method": AWGIM["second__method"]}))


AWGIM = {"second__method": {"name": "awgim", "width": 8, "heads": 2}}


def test_a_frozen_network_that_nobody_trains_is_refused(tmp_path: Path) -> None:
    alone = {**AWGIM, "second__needs": ["shards"], "second__backbone": STAGES["first"]["backbone"]}
    with pytest.raises(ConfigError, match=r"'awgim' trains nothing of the backbone, and 'conv4'"):
        planned(tmp_path, **alone)
    planned(tmp_path, **AWGIM)
    pretrained = {"name": "resnet", "depth": 18, "pretrained": "resnet18.tv_in1k"}
    planned(tmp_path, **{**alone, "second__backbone": pretrained})


def test_weights_of_a_method_that_has_others_are_refused(tmp_path: Path) -> None:
    message = (
        r"stages\.second .*init\.restore: 'all' .*'first' \(method 'supervised'\), and method "
        r"'protonet' has others, e\.g\. 'classifier.*init: \{restore: backbone\}"
    )
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path, second__init__restore="all")
    alike = {"first__method": STAGES["second"]["method"], "first__data__batch_size": 64}
    planned(
        tmp_path, **alike, first__episodes=STAGES["second"]["episodes"], second__init__restore="all"
    )
