"""Sweeps whose processes are killed at random end as if nothing had happened.

The driver, the process of a trial or a worker of its training gets SIGKILL, again and again; the
sweep is started anew when the driver was hit. At the end every trial exists once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from optuna.trial import FrozenTrial, TrialState

from data_shards.location import Location
from tests.toy_study import write_study
from tuning.outcome import own_trials
from tuning.store import read_study

pytestmark = [pytest.mark.slow, pytest.mark.ray]
WORKERS = ("ray::PipelineTrial", "ray::RayTrainWorker", "ray::TrainController")
ROOT = Path(__file__).parents[2]


class Sweep:
    """A sweep in a process of its own, started again whenever it is dead."""

    def __init__(self, study: Path) -> None:
        self.study, self.starts = study, 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        log = (self.study.parent / f"log-{self.starts}").open("w")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", "tune", str(self.study)],
                cwd=self.study.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self) -> str:
        return (self.study.parent / f"log-{self.starts}").read_text()

    def victims(self) -> list[psutil.Process]:
        """Return the processes of trials and of their training runs."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
            return [item for item in family if " ".join(item.cmdline()).startswith(WORKERS)]
        except psutil.NoSuchProcess:
            return []

    def end(self) -> None:
        """End the process group, Ray's processes included."""
        for item in self._family():
            item.kill()

    def _family(self) -> Iterator[psutil.Process]:
        for item in psutil.process_iter():
            try:
                if os.getpgid(item.pid) == self.process.pid:
                    yield item
            except ProcessLookupError:
                continue


def finished(study: Path) -> int:
    """Return how many trials have ended."""
    try:
        _, record = read_study(Location.parse(study.parent / "study"))
    except Exception:  # not begun yet, or being written at this moment
        return 0
    return sum(trial.state.is_finished() for trial in own_trials(record))


def torment(study: Path, kills: int, trials: int, seed: int, limit: float) -> Sweep:
    """Run a sweep to its end while killing something of it now and then."""
    dice, began = random.Random(seed), time.monotonic()
    sweep = Sweep(study)
    left, seen = kills, 0
    try:
        while True:
            assert time.monotonic() - began < limit, sweep.log()
            time.sleep(dice.uniform(0.5, 3))
            done = finished(study)
            if left and done >= seen and done < trials:
                drive = dice.random() < 0.5
                victims = sweep.victims()
                if drive and sweep.process.poll() is None and (done or victims):
                    os.kill(sweep.process.pid, signal.SIGKILL)
                    left -= 1
                elif victims:
                    dice.choice(victims).kill()
                    left -= 1
                seen = done + (dice.random() < 0.6)  # let a trial end before the next blow
            status = sweep.process.poll()
            if status == 0:
                assert not left, "the sweep was over before it was hit often enough"
                return sweep
            if status is not None:
                assert status < 0, sweep.log()
                sweep.process.wait()
                time.sleep(1)
                sweep.start()
    finally:
        if sweep.process.poll() is None:
            sweep.end()


def check(study: Path, trials: int) -> list[FrozenTrial]:
    """Check that the study is what an undisturbed sweep leaves."""
    root = Location.parse(study.parent / "study")
    config, record = read_study(root)
    own = own_trials(record)
    assert len(own) == trials
    assert {trial.state for trial in own} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert not [trial for trial in record.trials if trial.state == TrialState.RUNNING]
    settings = [json.dumps(trial.params, sort_keys=True) for trial in own]
    assert len(set(settings)) == trials
    for trial in own:
        last = max(trial.intermediate_values, default=0)
        if trial.state == TrialState.COMPLETE:
            assert last == 100
            assert trial.value == pytest.approx(max(trial.intermediate_values.values()), abs=1e-6)
        else:
            assert last < 100
    table = pq.read_table(config.root.local / "trials.parquet").to_pylist()  # type: ignore[operator]
    assert {row["number"]: row["state"] for row in table} == {
        trial.number: trial.state.name for trial in own
    }
    return own


@pytest.mark.timeout(1200)
def test_kills_lose_no_trial_and_repeat_none(tmp_path: Path) -> None:
    study = write_study(
        tmp_path,
        budget={"trials": 12},
        sampler={"name": "tpe", "startup_trials": 5},
        pruner={"name": "asha", "min_percent": 25, "factor": 2},
        set={"stages.second.episodes.per_epoch": 60},
        finalists={"count": 0},
    )
    sweep = torment(study, kills=5, trials=12, seed=1, limit=1100)
    assert sweep.starts > 1
    check(study, trials=12)


@pytest.mark.timeout(3600)
def test_kills_lose_no_nested_trial_and_repeat_none(tmp_path: Path) -> None:
    study = write_study(
        tmp_path,
        budget={"trials": 20},
        sampler={"name": "tpe", "startup_trials": 8},
        pruner={"name": "asha", "min_percent": 25, "factor": 2},
        finalists={"count": 0},
        trials={"launcher": "ray", "retries": 10},
    )
    sweep = torment(study, kills=10, trials=20, seed=2, limit=3500)
    assert sweep.starts > 1
    check(study, trials=20)
