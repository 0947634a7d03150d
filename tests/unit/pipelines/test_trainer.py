"""The loop without Ray: exact continuation, accumulation, failures, starting from a stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.errors import CheckpointError, StageError
from pipelines.checkpoint import find_checkpoints, open_checkpoint, write_pointers
from pipelines.metric_log import read_metrics
from pipelines.model import load_model
from pipelines.session import LocalSession
from pipelines.stepper import step_seed
from pipelines.train_config import TrainConfig
from pipelines.trainer import Trainer, TrainSpec
from tests.toy_training import assert_near, toy_config, toy_shards, toy_spec, weights


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("shards"))


class Killed(Exception):
    """Stands for a process that dies right after a checkpoint."""


class DyingSession(LocalSession):
    def save(self, directory: Path | None, name: str, metrics: Mapping[str, float]) -> None:
        super().save(directory, name, metrics)
        if name.endswith("08"):
            raise Killed


def quiet(**changes: Any) -> TrainConfig:
    """Settings without validation."""
    return toy_config(**{"validation__every_epochs": 0, **changes})


def train(spec: TrainSpec) -> Mapping[str, Tensor]:
    trainer = Trainer(spec, LocalSession(spec.out, spec.config.checkpoint.keep))
    trainer.fit()
    return weights(trainer.method)


VIEWS = {"crops": {"global_size": 16, "local_size": 8, "local_views": 2}}
SMALL_HEAD = {"head": {"prototypes": 32, "hidden": 32, "bottleneck": 16, "norm": "batch"}}
METHODS = [
    {"name": "toy"},
    {"name": "masked_distillation", **VIEWS, **SMALL_HEAD},
    {"name": "smkd", **VIEWS, **SMALL_HEAD},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"])
def test_a_run_killed_in_mid_epoch_ends_with_the_same_weights(
    method: dict[str, Any], shards: ShardSet, tmp_path: Path
) -> None:
    config = toy_config(method=method)
    expected = train(toy_spec(config, shards, tmp_path / "through"))
    spec = toy_spec(config, shards, tmp_path / "killed")
    with pytest.raises(Killed):
        Trainer(spec, DyingSession(spec.out)).fit()
    resumed = Trainer(spec, LocalSession(spec.out))
    assert resumed.start == 8  # of 6 steps per epoch
    resumed.fit()
    assert all(torch.equal(value, weights(resumed.method)[key]) for key, value in expected.items())
    through, again = (
        {line["step"]: line.get("loss") for line in read_metrics(Location.parse(tmp_path / name))}
        for name in ("through", "killed")
    )
    assert through == again


def test_a_finished_run_has_nothing_to_do(shards: ShardSet, tmp_path: Path) -> None:
    spec = toy_spec(quiet(optim__epochs=1), shards, tmp_path)
    train(spec)
    assert Trainer(spec, LocalSession(spec.out)).fit() == {}


def test_accumulated_micro_batches_equal_the_whole_batch(shards: ShardSet, tmp_path: Path) -> None:
    plain = {"method__noise": 0.0, "backbone__drop_path": 0.0, "optim__epochs": 1}
    whole = toy_spec(quiet(**plain), shards, tmp_path / "whole")
    parts = toy_spec(quiet(**plain, data__micro_batch=7), shards, tmp_path / "parts")
    assert_near(train(parts), train(whole))
    losses = [[line["loss"] for line in read_metrics(spec.out)] for spec in (whole, parts)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_seed_alone_decides_the_result(shards: ShardSet, tmp_path: Path) -> None:
    first = train(toy_spec(quiet(optim__epochs=1), shards, tmp_path / "first"))
    torch.rand(5)
    second = train(toy_spec(quiet(optim__epochs=1), shards, tmp_path / "second"))
    other = train(toy_spec(quiet(optim__epochs=1, seed=8), shards, tmp_path / "other"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_loss_that_is_not_finite_ends_the_run_and_is_never_saved(
    shards: ShardSet, tmp_path: Path
) -> None:
    spec = toy_spec(quiet(method__break_at=5, log_every=50), shards, tmp_path)
    with pytest.raises(StageError, match=r"the loss of step 5 is nan; .*Lower optim\.lr"):
        train(spec)
    assert [info.step for info in find_checkpoints(spec.out).values()] == [4]


def test_gradients_that_are_not_finite_end_the_run_though_the_loss_is(
    shards: ShardSet, tmp_path: Path
) -> None:
    spec = toy_spec(quiet(method__spoil_from=5, log_every=50), shards, tmp_path)
    with pytest.raises(StageError, match=r"the gradients of step 5 are not finite \(loss \d"):
        train(spec)
    assert [info.step for info in find_checkpoints(spec.out).values()] == [4]


def test_steps_left_out_in_a_row_end_the_run_though_every_loss_is_finite(
    shards: ShardSet, tmp_path: Path
) -> None:
    config = quiet(method__spoil_from=2, optim__skip_nonfinite=True)
    with pytest.raises(StageError, match=r"the gradients of step 12 are not finite"):
        train(toy_spec(config, shards, tmp_path))


def test_validation_chooses_the_best_checkpoint_and_the_last_stays(
    shards: ShardSet, tmp_path: Path
) -> None:
    spec = toy_spec(toy_config(checkpoint__keep=1), shards, tmp_path)
    train(spec)
    pointers = write_pointers(spec.out)
    accuracies = [
        line["accuracy"] for line in read_metrics(spec.out) if line["kind"] == "validation"
    ]
    assert len(accuracies) == 3
    assert pointers["best"].metrics["val_accuracy"] == max(accuracies)
    assert pointers["last"].step == 18
    assert len(find_checkpoints(spec.out)) <= 2
    assert load_model(spec.out, "best").images.mode == "grey"


@pytest.fixture(scope="module")
def earlier(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A finished stage."""
    spec = toy_spec(quiet(optim__epochs=1), shards, tmp_path_factory.mktemp("earlier"))
    train(spec)
    write_pointers(spec.out)
    return spec.out


def started(shards: ShardSet, out: Path, earlier: Location, **changes: Any) -> Trainer:
    spec = toy_spec(quiet(**changes), shards, out)
    return Trainer(TrainSpec(**{**vars(spec), "init": earlier}), LocalSession(spec.out))


@pytest.mark.parametrize("restore", ["all", "weights"])
def test_a_stage_starts_from_an_earlier_one(
    shards: ShardSet, tmp_path: Path, earlier: Location, restore: str
) -> None:
    trainer = started(shards, tmp_path, earlier, init__restore=restore)
    expected = load_model(earlier, "last").method
    assert all(
        torch.equal(value, weights(trainer.method)[key]) for key, value in weights(expected).items()
    )
    assert trainer.start == 0
    assert bool(trainer.optimizer.state) == (restore == "all")


def test_an_earlier_stage_of_another_architecture_is_refused(
    shards: ShardSet, tmp_path: Path, earlier: Location
) -> None:
    with pytest.raises(CheckpointError, match=r"weights of another architecture: .*method equal"):
        started(shards, tmp_path, earlier, backbone__width=32)


def test_changed_settings_do_not_continue_a_run(
    shards: ShardSet, tmp_path: Path, earlier: Location
) -> None:
    spec = toy_spec(quiet(optim__epochs=1, optim__lr=0.5), shards, tmp_path)
    with open_checkpoint(earlier, "last") as checkpoint:
        (spec.out / "checkpoints" / "step-1").upload(checkpoint.directory)
    with pytest.raises(CheckpointError, match="made with other settings"):
        Trainer(spec, LocalSession(spec.out))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains(shards: ShardSet, tmp_path: Path, precision: str) -> None:
    trained = train(toy_spec(quiet(optim__epochs=1, precision=precision), shards, tmp_path))
    assert all(torch.isfinite(value).all() for value in trained.values())


def test_step_seeds_differ_by_step_rank_and_micro_batch() -> None:
    seeds = {step_seed(0, s, r, m) for s in range(20) for r in range(3) for m in range(3)}
    assert len(seeds) == 180
    assert max(seeds) < 2**63


def test_a_step_that_is_not_finite_is_left_out_where_asked(
    shards: ShardSet, tmp_path: Path
) -> None:
    config = quiet(method__break_at=5, log_every=6, optim__skip_nonfinite=True)
    spec = toy_spec(config, shards, tmp_path)
    trainer = Trainer(spec, LocalSession(spec.out))
    trainer.fit()
    assert all(torch.isfinite(value).all() for value in weights(trainer.method).values())
    lines = [line for line in read_metrics(spec.out) if line["kind"] == "train"]
    assert [line["step"] for line in lines if line["skipped"] > 0] == [6]  # step 5, from 0
