"""What follows the trials: TensorBoard files, MLflow, Weights & Biases. Nothing here starts Ray."""

from __future__ import annotations

import importlib.machinery
import logging
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_shards.location import Location
from fsl.errors import ConfigError, StorageError
from tests.unit.tuning.example_study import example_config
from tuning.loggers import TensorBoard, callbacks
from tuning.outcome import Outcome, TrialNews
from tuning.searcher import NEWS

PARAMS = {"recipe": "smkd", "smkd.optim.lr": 0.003, "smkd.data.batch_size": 64, "smkd.x": None}


def trial(number: int = 7) -> Any:
    class FakeTrial(SimpleNamespace):
        __hash__ = object.__hash__  # type: ignore[assignment]

        def __str__(self) -> str:
            return f"trial_{number:04d}"

    return FakeTrial(config={"number": number, "params": PARAMS, "job": "j" * 10_000})


def result(percent: int, value: float | None, outcome: Outcome | None = None) -> dict[str, Any]:
    metrics = {} if value is None else {"val_accuracy": value, "loss": 2 - value}
    news = TrialNews(outcome=outcome, percent=percent, value=value, metrics=metrics)
    return {NEWS: news.to_json(), "training_iteration": percent, "done": outcome is not None}


def follow(callback: Any, *results: dict[str, Any], number: int = 7, fails: bool = False) -> None:
    """Let a callback see one trial from beginning to end."""
    one = trial(number)
    callback.on_trial_start(0, [one], one)
    for step, item in enumerate(results):
        callback.on_trial_result(step, [one], one, item)
    end = callback.on_trial_error if fails else callback.on_trial_complete
    end(len(results), [one], one)


def board(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_each_trial_has_event_files_over_percents(tmp_path: Path) -> None:
    (callback,) = callbacks(example_config(study_dir=str(tmp_path)))
    last = result(100, 0.75, Outcome.COMPLETE)
    follow(callback, result(0, None), result(25, 0.5), result(50, 0.7), last)
    read = board(tmp_path / "tensorboard" / "trial_0007")
    points = [(event.step, event.value) for event in read.Scalars("trial/val_accuracy")]
    assert points == [(25, 0.5), (50, pytest.approx(0.7)), (100, 0.75)]
    assert read.Scalars("last/val_accuracy")[0].value == 0.75
    assert read.Scalars("last/percent")[0].value == 100


def test_settings_are_hyper_parameters_of_the_board(tmp_path: Path) -> None:
    (callback,) = callbacks(example_config(study_dir=str(tmp_path)))
    follow(callback, result(25, 0.5))
    read = board(tmp_path / "tensorboard" / "trial_0007")
    from tensorboard.plugins.hparams import plugin_data_pb2

    (content,) = read.PluginTagToContent("hparams").keys() & {"_hparams_/session_start_info"}
    data = plugin_data_pb2.HParamsPluginData.FromString(read.PluginTagToContent("hparams")[content])
    found = data.session_start_info.hparams
    assert found["smkd.optim.lr"].number_value == 0.003
    assert found["smkd.x"].string_value == "null"


@pytest.mark.parametrize("fails", [False, True])
def test_a_trial_without_validation_leaves_no_files(tmp_path: Path, fails: bool) -> None:
    (callback,) = callbacks(example_config(study_dir=str(tmp_path)))
    follow(callback, result(0, None, Outcome.INFEASIBLE), fails=fails)
    assert not (tmp_path / "tensorboard").exists()


def test_a_trial_that_goes_on_adds_to_its_files(tmp_path: Path) -> None:
    (callback,) = callbacks(example_config(study_dir=str(tmp_path)))
    follow(callback, result(25, 0.5), fails=True)
    follow(callback, result(50, 0.6), result(100, 0.7, Outcome.COMPLETE))
    read = board(tmp_path / "tensorboard" / "trial_0007")
    assert sorted(e.step for e in read.Scalars("trial/val_accuracy")) == [25, 50, 100]


def test_a_bucket_that_is_away_does_not_end_the_search(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(place: Location, source: Path) -> None:
        raise StorageError(f"{place}: cannot be written")

    monkeypatch.setattr(Location, "upload", away)
    callback = TensorBoard(Location.parse("s3://bucket/study?region=eu-west-1"), ["val_accuracy"])
    with caplog.at_level(logging.WARNING):
        follow(callback, result(100, 0.5, Outcome.COMPLETE))
    assert "TensorBoard: s3://bucket/study/tensorboard/trial_0007" in caplog.text
    assert "the search goes on" in caplog.text


def test_open_files_stay_out_of_snapshots(tmp_path: Path) -> None:
    callback = TensorBoard(Location.parse(tmp_path), ["val_accuracy"])
    one = trial()
    callback.on_trial_result(0, [one], one, result(25, 0.5))
    assert pickle.loads(pickle.dumps(callback)).boards == {}
    callback.on_trial_complete(1, [one], one)


@pytest.mark.parametrize(
    ("package", "settings"), [("mlflow", {}), ("wandb", {"project": "few-shot"})]
)
def test_a_missing_package_is_named(
    package: str, settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.loggers.importlib.util.find_spec", lambda name: None)
    config = example_config(study_dir=str(tmp_path), loggers={package: settings})
    with pytest.raises(ConfigError, match=rf"loggers\.{package}: .*pip install {package}"):
        callbacks(config)


class FakeMlflow:
    """Stands for MLflow where it is not installed: remembers, or fails, as a server does."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.params: dict[str, Any] = {}
        self.metrics: list[tuple[str, float, int]] = []
        self.ended: list[str] = []
        self.fault = ""
        modules = {name: ModuleType(name) for name in (
            "mlflow", "mlflow.utils", "mlflow.utils.mlflow_tags", "mlflow.tracking",
            "mlflow.exceptions",
        )}  # fmt: skip
        top = modules["mlflow"]
        for name, module in modules.items():
            module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
            patch.setitem(sys.modules, name, module)
        run = SimpleNamespace(info=SimpleNamespace(run_id="run"))
        calls: dict[str, Callable[..., Any]] = {
            "create_run": lambda **_: run,
            "log_param": lambda run_id, key, value: self.params.update({key: value}),
            "log_metric": lambda run_id, key, value, step: self.metrics.append((key, value, step)),
            "set_terminated": lambda run_id, status: self.ended.append(status),
        }
        client = SimpleNamespace(**{name: self._or_fault(call) for name, call in calls.items()})
        experiment = SimpleNamespace(experiment_id="1")
        vars(top).update(
            __version__="3.0.0",
            set_tracking_uri=lambda uri: None,
            set_registry_uri=lambda uri: None,
            get_tracking_uri=lambda: "",
            get_registry_uri=lambda: "",
            get_experiment_by_name=self._or_fault(lambda name: experiment),
            get_run=lambda run_id: run,
            active_run=lambda: None,
        )
        vars(modules["mlflow.tracking"])["MlflowClient"] = lambda **_: client
        vars(modules["mlflow.utils.mlflow_tags"])["MLFLOW_RUN_NAME"] = "name"
        vars(modules["mlflow.exceptions"])["MlflowException"] = RuntimeError
        for name in [
            name for name in sys.modules if name.startswith("ray.air") and "mlflow" in name
        ]:
            patch.delitem(sys.modules, name)

    def _or_fault(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self.fault:
                raise RuntimeError(self.fault)
            return call(*args, **kwargs)

        return called


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    return FakeMlflow(monkeypatch)


def mlflow_callback(folder: Path) -> Any:
    loggers = {"mlflow": {"tracking_uri": "http://127.0.0.1:9"}}
    return callbacks(example_config(study_dir=str(folder), loggers=loggers))[1]


def test_mlflow_gets_settings_and_numbers_over_percents(mlflow: FakeMlflow, tmp_path: Path) -> None:
    callback = mlflow_callback(tmp_path)
    callback.setup()  # as Tune does
    follow(callback, result(0, None), result(25, 0.5), result(100, 0.75, Outcome.COMPLETE))
    assert mlflow.params == PARAMS
    assert ("val_accuracy", 0.5, 25) in mlflow.metrics
    assert {name for name, *_ in mlflow.metrics} == {"val_accuracy", "loss"}
    assert mlflow.ended == ["FINISHED"]


def test_a_server_that_cannot_be_reached_is_an_error_at_the_start(
    mlflow: FakeMlflow, tmp_path: Path
) -> None:
    mlflow.fault = "connection refused\nmore"
    with pytest.raises(ConfigError, match=r"cannot use http://127.0.0.1:9 \(connection refused\)"):
        mlflow_callback(tmp_path)


def test_a_server_that_goes_away_does_not_end_the_search(
    mlflow: FakeMlflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = mlflow_callback(tmp_path)
    mlflow.fault = "connection refused"
    with caplog.at_level(logging.WARNING):
        follow(callback, result(25, 0.5), result(100, 0.75, Outcome.COMPLETE))
    assert "MLflow: connection refused; the search goes on" in caplog.text


def test_wandb_needs_a_key_unless_it_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    online = {"wandb": {"project": "few-shot"}}
    with pytest.raises(ConfigError, match=r"no API key; run `wandb login`"):
        callbacks(example_config(study_dir=str(tmp_path), loggers=online))
    offline = {"wandb": {"project": "few-shot", "mode": "offline"}}
    callback: Any = callbacks(example_config(study_dir=str(tmp_path), loggers=offline))[1]
    assert callback.kwargs == {"mode": "offline", "dir": str(tmp_path)}
    assert callback.group == "example"
