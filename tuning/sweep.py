"""A sweep: Ray Tune runs the trials that the study asks for, until its budget is used up."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from tuning.config import StudyConfig
from tuning.disk import trim
from tuning.ledger import Ledger
from tuning.live import LiveView, RunningTrial
from tuning.loggers import callbacks
from tuning.outcome import TrialNews
from tuning.resources import concurrency, need_of, start_ray
from tuning.searcher import NEWS, StudyScheduler, StudySearcher
from tuning.space import Space
from tuning.store import StudyStore
from tuning.trial import PipelineTrial
from tuning.warm_start import warm_start

REDRAW_SECONDS = 0.5
GIGABYTE = 10**9


def run_trials(config: StudyConfig, space: Space, store: StudyStore) -> None:
    """Run trials until the budget is used up.

    Raises:
        FewShotError: not one trial fits, or all fail alike.
        KeyboardInterrupt: stopped by hand; the same call goes on.
    """
    warm_start(config, space, store)
    ledger = Ledger(config, space, store)
    if not ledger.has_more():
        return
    start_ray(config)
    need = need_of(config, space)
    ledger.devices = need.devices
    searcher = StudySearcher(ledger)
    with LiveView(config) as view:
        trainable = tune.with_resources(PipelineTrial, dict(need.trial))
        watchers = [Watch(searcher, view, config), *callbacks(config)]
        drive(searcher, trainable, concurrency(config, need), config.trials.retries, watchers)


def drive(
    searcher: StudySearcher,
    trainable: Any,
    at_once: int,
    retries: int = 0,
    watchers: Sequence[tune.Callback] = (),
) -> None:
    """Let Ray Tune run what a searcher hands out, until it has no more.

    Args:
        searcher: of the study.
        trainable: what runs a trial; its results carry `NEWS`.
        at_once: trials side by side.
        retries: restarts of a trial whose process died.
        watchers: told of all that happens.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # ours are in `loggers`
    with tempfile.TemporaryDirectory(prefix="fewshot-tune-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=StudyScheduler(searcher),
                num_samples=-1,
                max_concurrent_trials=at_once,
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,  # nothing in it is needed again: the study is the record
                verbose=0,
                stop=Fault(searcher),
                failure_config=tune.FailureConfig(max_failures=retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=list(watchers),
            ),
        )
        tuner.fit()
    if searcher.fault is not None:
        raise searcher.fault
    if not searcher.book.over:  # Tune ends quietly when it is interrupted
        raise KeyboardInterrupt


def _name(trial: Trial) -> str:
    return f"trial_{trial.config['number']:04d}"


class Fault(tune.Stopper):
    """Ends a sweep in which something went wrong that is no trial's own."""

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: trials end by themselves, or are pruned."""
        return False

    def stop_all(self) -> bool:
        """Return whether the sweep ends now."""
        return self.searcher.fault is not None


class Watch(tune.Callback):
    """Keeps the live table and the disk in order while trials run."""

    def __init__(self, searcher: StudySearcher, view: LiveView, config: StudyConfig) -> None:
        self.searcher, self.view, self.config = searcher, view, config
        self.running: dict[int, RunningTrial] = {}
        self.drawn = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Leave terminal and study out of Tune's snapshots."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Show a trial that begins, or begins again."""
        number = trial.config["number"]
        self.running[number] = RunningTrial(number, 0, None, time.time())

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Show how far it is."""
        news = TrialNews.from_json(result[NEWS])
        number = trial.config["number"]
        before = self.running.get(number) or RunningTrial(number, 0, None, time.time())
        value = before.value if news.value is None else news.value
        self.running[number] = RunningTrial(number, news.percent, value, before.since)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Make room for the next."""
        self._ended(trial)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Make room for the next."""
        self._ended(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Draw the table now and then."""
        if time.monotonic() - self.drawn > REDRAW_SECONDS:
            self.drawn = time.monotonic()
            self.view.update(self.searcher.book.study, self.running)

    def _ended(self, trial: Trial) -> None:
        self.running.pop(trial.config["number"], None)
        book = self.searcher.book
        if self.config.trials.checkpoint_gb is not None:
            bytes_kept = int(self.config.trials.checkpoint_gb * GIGABYTE)
            trim(self.config.root, book.study, bytes_kept, self.config.finalists.count)
        self.view.update(book.study, self.running)
