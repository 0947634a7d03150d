"""A sweep: Ray Tune runs the trials that the study asks for, until its budget is used up."""

from __future__ import annotations

import time
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from tqdm import tqdm

from tuning.config import StudyConfig
from tuning.disk import trim
from tuning.ledger import Ledger
from tuning.live import LiveView, RunningTrial
from tuning.loggers import callbacks
from tuning.outcome import TrialNews
from tuning.resources import concurrency, need_of, ray_for
from tuning.searcher import NEWS, StudySearcher
from tuning.space import Space
from tuning.store import StudyStore
from tuning.trial import PipelineTrial
from tuning.tuner import drive
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
    searcher = StudySearcher(ledger)
    with ray_for(config), LiveView(config) as view:
        need = need_of(config, space)
        ledger.devices = need.devices
        trainable = tune.with_resources(PipelineTrial, dict(need.trial))
        watchers = [Watch(searcher, view, config), *callbacks(config)]
        drive(
            searcher,
            trainable,
            config.root / "tune",
            at_once=concurrency(config, need),
            retries=config.trials.retries,
            watchers=watchers,
        )
    tqdm.write(f"search ended: {ledger.over}")


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
