"""Training on a feature table: settings, kill and resume, evaluation beside models of images."""

from pathlib import Path
from typing import Any

import pytest
import torch

from data_shards.features import FeatureSet
from data_shards.location import Location
from fsl.config import build
from fsl.errors import StageError
from pipelines.accuracies import read_summary
from pipelines.resolve import filled_in, resolved
from pipelines.session import LocalSession
from pipelines.stages.train import TrainStage, run_spec
from pipelines.train_config import TrainConfig
from pipelines.trainer import Trainer
from tests.finished_run import FinishedRun
from tests.toy_training import Interrupted, StopsAtFour

AWGIM: dict[str, Any] = {
    "method": {"name": "awgim", "width": 16, "heads": 2},
    "episodes": {"name": "fixed", "ways": 3, "shots": 1, "queries": 2, "per_step": 4,
                 "per_epoch": 12},
    "optim": {
        "epochs": 2, "lr": 1e-3, "min_lr": 0, "warmup_epochs": 0, "staircase": {"every": 4},
        "weight_decay": 1e-6, "final_weight_decay": None, "decay_times_lr": False,
        "decay_all": True, "epsilon_before_correction": True, "skip_nonfinite": True,
        "clip": {"kind": "value_then_norm", "value": 0.1},
    },
    "validation": {"every_epochs": 0},
    "checkpoint": {"every_steps": 4},
    "cluster": {"launcher": "local"},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    made = FinishedRun(tmp_path_factory.mktemp("features"))
    made.shards()
    made.model("pretrain", "masked_distillation", ["shards"])
    made.run("features", "extract_features", {}, ["shards", "pretrain"])
    return made


def spec_of(run: FinishedRun, out: Path, **settings: Any) -> Any:
    data = FeatureSet.open(run.results["features"].path)
    config = build(TrainConfig, {"kind": "train", **AWGIM, **settings})
    place = Location.parse(out)
    place.make_dir()
    return run_spec(filled_in(resolved(config, None, features=True), data), data, place)


def test_all_candidates_answer_the_same_episodes(run: FinishedRun) -> None:
    run.run("awgim", "train", AWGIM, ["features"])
    settings = {
        "tasks": 12, "queries": 3, "shots": [1], "ways": 3, "baselines": ["pixels"],
        "protocols": ["method", {"name": "ridge", "features": "centred_l2"}],
    }  # fmt: skip
    needs = ["shards", "features", "pretrain", "awgim"]
    metrics = run.run("evaluate", "evaluate", settings, needs).metrics
    assert 0 < metrics["awgim_method_3w1s"] <= 1
    # the table holds the model's own features: one classifier, one answer
    assert metrics["features_method_3w1s"] == pytest.approx(metrics["pretrain_method_3w1s"])
    assert metrics["features_ridge_3w1s"] == pytest.approx(metrics["pretrain_ridge_3w1s"])
    summary = read_summary(run.results["evaluate"].path)
    assert [entry["label"] for entry in summary["models"]] == [
        "pixels", "features", "pretrain", "awgim",
    ]  # fmt: skip


def test_an_interrupted_run_ends_with_the_same_weights(run: FinishedRun, tmp_path: Path) -> None:
    whole = Trainer(spec_of(run, tmp_path / "whole"), _session(tmp_path / "whole"))
    whole.fit()
    spec = spec_of(run, tmp_path / "cut")
    with pytest.raises(Interrupted):
        Trainer(spec, StopsAtFour(spec.out)).fit()
    resumed = Trainer(spec, LocalSession(spec.out))
    assert resumed.start == 4
    resumed.fit()
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[name]), name


def _session(out: Path) -> LocalSession:
    return LocalSession(Location.parse(out))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": {"name": "simclr"}, "episodes": None}, "'simclr' learns from images"),
        ({"images": {"size": 28}}, "images: the stage trains on feature vectors"),
        ({"backbone": {"name": "conv4"}}, "'conv4' wants images"),
        ({"backbone": {"name": "features", "size": 3}}, "have length 128; remove it"),
        (
            {"method": {"name": "protonet", "simclr_fraction": 0.25}},
            r"method\.simclr_fraction: 0\.25, and the stage trains on feature vectors.*it to 0",
        ),
        (
            {"method": {"name": "protonet", "view": {"flip": 0}}},
            r"method\.view: changes images, and the stage trains on feature vectors; remove it",
        ),
    ],
)
def test_settings_of_images_are_refused(
    run: FinishedRun, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        spec_of(run, tmp_path, **settings)


def test_a_stage_trains_on_one_kind_of_data(run: FinishedRun) -> None:
    stage = TrainStage(build(TrainConfig, {"kind": "train", **AWGIM}))
    both = {name: run.results[name] for name in ("shards", "features")}
    for inputs in (both, {}):
        with pytest.raises(StageError, match="list exactly one"):
            stage.run(inputs, Location.parse("/nowhere"))
    on_images = build(TrainConfig, {"kind": "train", **AWGIM, "backbone": {"name": "features"}})
    with pytest.raises(StageError, match="reads a feature table"):
        resolved(on_images, None)
