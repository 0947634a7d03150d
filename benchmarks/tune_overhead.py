"""Wall time of a sweep of short trials against what it would take if nothing came on top.

    python benchmarks/tune_overhead.py [--trials 24] [--at-once 2]

A trial computes for two seconds and reports four times. The theoretical minimum is trials x
seconds / trials at once. What comes on top is shown by its part: starting Ray, the first trials'
processes (they import torch), and the pause between two trials of one process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import datetime
from typing import Any

from pipelines.quiet import prepare_environment

prepare_environment()  # before Ray is imported

import ray  # noqa: E402
from ray import tune  # noqa: E402
from tune_quality import opened  # noqa: E402

from data_shards.location import Location  # noqa: E402
from tuning.outcome import Outcome, TrialNews  # noqa: E402
from tuning.searcher import NEWS, StudySearcher  # noqa: E402
from tuning.tuner import drive  # noqa: E402

REPORTS = 4
SECONDS = 2.0


class Busy(tune.Trainable):
    """Computes for a given time, in four parts; imports what a real trial imports."""

    def setup(self, config: dict[str, Any]) -> None:
        import tuning.work  # noqa: F401, PLC0415

        self.parts = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        seconds = SECONDS / REPORTS
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            sum(range(1000))
        self.parts += 1
        percent = 100 * self.parts // REPORTS
        last = self.parts == REPORTS
        news = TrialNews(
            Outcome.COMPLETE if last else None,
            percent=percent,
            value=0.5,
            values=[0.5] if last else None,
            seconds=SECONDS,
        )
        return {NEWS: news.to_json(), "done": last}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--at-once", type=int, default=2)
    args = parser.parse_args()
    began = time.perf_counter()
    ray.init(
        num_cpus=args.at_once, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    started = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        ledger = opened(folder, 0, args.trials)
        searcher = StudySearcher(ledger)
        began = time.perf_counter()
        trainable = tune.with_resources(Busy, {"CPU": 1})
        drive(searcher, trainable, Location.parse(folder) / "tune", at_once=args.at_once)
        wall = time.perf_counter() - began
        spans = [
            tuple(datetime.fromisoformat(trial.user_attrs[key]) for key in ("started", "finished"))
            for trial in ledger.study.trials
        ]
    took = [(end - start).total_seconds() for start, end in spans]
    least = args.trials * SECONDS / args.at_once
    print(f"starting Ray                        {started:6.1f} s")
    print(f"{args.trials} trials of {SECONDS:g} s, {args.at_once} at once     {wall:6.1f} s")
    print(f"theoretical minimum                 {least:6.1f} s, ratio {wall / least:.2f}")
    print(f"of it the first trials, from asked to told {max(took[: args.at_once]):6.1f} s")
    later = statistics.median(took[args.at_once :])
    print(f"each later trial, median                   {later:6.2f} s")


if __name__ == "__main__":
    main()
