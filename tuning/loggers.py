"""Trials followed by others: TensorBoard files always, MLflow and Weights & Biases if asked for."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from torch.utils.tensorboard import SummaryWriter

from data_shards.location import Location
from fsl.errors import ConfigError
from tuning.config import StudyConfig
from tuning.outcome import Outcome, TrialNews
from tuning.run_config import MlflowConfig, WandbConfig
from tuning.searcher import NEWS

BOARDS = "tensorboard"
NOT_NUMBERS = ["job", NEWS]
"""What results and configurations of Ray Tune hold for us alone."""
logger = logging.getLogger(__name__)


def callbacks(config: StudyConfig) -> list[tune.Callback]:
    """Return what follows the trials of a sweep.

    Raises:
        ConfigError: a service is asked for that is not installed or cannot be reached.
    """
    found: list[tune.Callback] = [TensorBoard(config.root, [goal.metric for goal in config.goals])]
    if config.loggers.mlflow is not None:
        found.append(_mlflow(config, config.loggers.mlflow))
    if config.loggers.wandb is not None:
        found.append(_wandb(config, config.loggers.wandb))
    return found


class TensorBoard(tune.Callback):
    """Event files per trial, `tensorboard/trial_0007`: what each validation found, and hparams.

    The steps are percents of the judged stage's training, so that trials of different length can
    be laid over each other.

    Args:
        root: the study's directory; files are sent to a bucket when a trial ends.
        goals: names of the goals' numbers.
    """

    def __init__(self, root: Location, goals: list[str]) -> None:
        self.root, self.goals = root, goals
        self.boards: dict[int, Board] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out of Tune's snapshots."""
        return {**self.__dict__, "boards": {}}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Write down what a validation of the judged stage found."""
        news = TrialNews.from_json(result[NEWS])
        if news.value is None and news.outcome is not Outcome.COMPLETE:
            return
        number = trial.config["number"]
        with survived("TensorBoard"):
            if number not in self.boards:
                self.boards[number] = Board(self.root / BOARDS / f"trial_{number:04d}")
            self.boards[number].write(news)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Write settings and last numbers."""
        self._end(trial)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Write settings and last numbers."""
        self._end(trial)

    def _end(self, trial: Trial) -> None:
        board = self.boards.pop(trial.config["number"], None)
        if board is not None:
            with survived("TensorBoard"):
                board.close(trial.config["params"], self.goals)


class Board:
    """The event files of one trial, being written.

    Args:
        place: their directory.
    """

    def __init__(self, place: Location) -> None:
        self.place = place
        self._temporary = tempfile.TemporaryDirectory() if place.local is None else None
        self._folder = Path(self._temporary.name) if self._temporary else place.local
        self._writer = SummaryWriter(str(self._folder))
        self._last: dict[str, float] = {}

    def write(self, news: TrialNews) -> None:
        """Add one report."""
        numbers = {name: value for name, value in news.metrics.items() if math.isfinite(value)}
        for name, value in numbers.items():
            self._writer.add_scalar(f"trial/{name}", value, news.percent)
        self._last = {**self._last, **numbers, "percent": float(news.percent)}
        self._writer.flush()

    def close(self, params: dict[str, Any], goals: list[str]) -> None:
        """Add settings and the goals as they were last, and end."""
        settings = {key: "null" if value is None else value for key, value in params.items()}
        shown = [*goals, "percent"]
        last = {f"last/{name}": self._last[name] for name in shown if name in self._last}
        self._writer.add_hparams(settings, last, run_name=".")
        self._writer.close()
        if self._temporary is not None:
            with self._temporary as folder:
                self.place.upload(Path(folder))


def _mlflow(config: StudyConfig, settings: MlflowConfig) -> tune.Callback:
    _installed("mlflow")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 take four minutes
    from ray.air.integrations.mlflow import MLflowLoggerCallback  # noqa: PLC0415 - an extra

    class Mlflow(MLflowLoggerCallback):
        """Ray's callback, with our parameters and steps; its faults do not end the search."""

        def log_trial_start(self, trial: Trial) -> None:
            with survived("MLflow"):
                if trial not in self._trial_runs:
                    tags = {"study": config.name, "trial": str(trial.config["number"])}
                    run = self.mlflow_util.start_run(tags=tags, run_name=str(trial))
                    self._trial_runs[trial] = run.info.run_id
                run_id, params = self._trial_runs[trial], trial.config["params"]
                self.mlflow_util.log_params(run_id=run_id, params_to_log=params)

        def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
            news = TrialNews.from_json(result[NEWS])
            run_id = self._trial_runs.get(trial)
            if run_id is not None and news.metrics:
                with survived("MLflow"):
                    self.mlflow_util.log_metrics(
                        run_id=run_id, metrics_to_log=dict(news.metrics), step=news.percent
                    )

        def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
            if trial in self._trial_runs:
                with survived("MLflow"):
                    super().log_trial_end(trial, failed)

    uri, name = settings.tracking_uri, settings.experiment or config.name
    callback = Mlflow(tracking_uri=uri, experiment_name=name, log_params_on_trial_end=False)
    try:
        callback.setup()  # type: ignore[no-untyped-call]
    except Exception as error:  # of any library below it
        where = uri or os.environ.get("MLFLOW_TRACKING_URI") or "its default place"
        raise ConfigError(
            f"loggers.mlflow: cannot use {where} ({_first_line(error)}); start the server, mend "
            "tracking_uri, or remove loggers.mlflow"
        ) from error
    return callback


def _wandb(config: StudyConfig, settings: WandbConfig) -> tune.Callback:
    _installed("wandb")
    from ray.air.integrations.wandb import WandbLoggerCallback  # noqa: PLC0415 - an extra

    class Wandb(WandbLoggerCallback):
        """Ray's callback, which wants a key even where it sends nothing; its faults end nothing."""

        def setup(self, *args: Any, **kwargs: Any) -> None:
            if settings.mode == "online":
                super().setup(*args, **kwargs)  # type: ignore[no-untyped-call]

        def on_trial_start(
            self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
        ) -> None:
            with survived("Weights & Biases"):
                super().on_trial_start(iteration, trials, trial, **info)

        def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
            with survived("Weights & Biases"):
                super().log_trial_result(iteration, trial, result)

        def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
            with survived("Weights & Biases"):
                super().log_trial_end(trial, failed)

        def __del__(self) -> None:
            """Leave out what Ray's does: it fails when the interpreter ends."""

    callback = Wandb(
        project=settings.project,
        group=settings.group or config.name,
        excludes=NOT_NUMBERS,
        mode=settings.mode,
        dir=str(config.root.local or Path.cwd()),  # Tune's own directory is not kept
    )
    try:
        callback.setup()
    except ValueError:
        raise ConfigError(
            "loggers.wandb: no API key; run `wandb login`, set WANDB_API_KEY, or set mode: offline"
        ) from None
    return callback


@contextmanager
def survived(service: str) -> Iterator[None]:
    """Turn the fault of a service into a warning: a search of days must not end for it."""
    try:
        yield
    except Exception as error:  # of any library below it
        logger.warning("%s: %s; the search goes on", service, _first_line(error))


def _installed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"loggers.{package}: {package} is not installed: pip install {package}, or remove "
            f"loggers.{package}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
