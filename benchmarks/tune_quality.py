"""The sampler through Ray Tune against plain Optuna, and how long a suggestion takes.

    python benchmarks/tune_quality.py [--seeds 20] [--trials 40] [--latency 1000]

A known objective (Rosenbrock's function of two settings, and two more settings that matter less)
is minimised by TPE with the same budget: by `study.optimize`, one trial after another, and through
our searcher, ledger and journal in Ray Tune, two trials at a time. Regret is the best value found.
Then a study is filled with trials, and the time from asking to having settings is measured as it
grows.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna

from fsl.search_space import Choice, Domain, Uniform
from pipelines.quiet import prepare_environment

prepare_environment()  # before Ray is imported

import ray  # noqa: E402
from ray import tune  # noqa: E402

from data_shards.location import Location  # noqa: E402
from tuning.config import StudyConfig  # noqa: E402
from tuning.journal import open_journal  # noqa: E402
from tuning.ledger import Ledger  # noqa: E402
from tuning.outcome import Outcome, TrialNews  # noqa: E402
from tuning.ranges import suggest_one  # noqa: E402
from tuning.samplers import build_sampler  # noqa: E402
from tuning.searcher import NEWS, StudySearcher  # noqa: E402
from tuning.tuner import drive  # noqa: E402

DIMENSIONS: dict[str, Domain] = {
    "a": Uniform(-2.0, 2.0),
    "b": Uniform(-1.0, 3.0),
    "rate": Uniform(1e-5, 1e-1, log=True),
    "kind": Choice("plain", "odd"),
}


def objective(params: dict[str, Any]) -> float:
    """Return a value whose minimum is 0, at a = b = 1, rate = 1e-3, kind = plain."""
    valley = (1 - params["a"]) ** 2 + 10 * (params["b"] - params["a"] ** 2) ** 2
    rate = math.log10(params["rate"] / 1e-3) ** 2
    return float(valley + 0.5 * rate + (params["kind"] == "odd"))


class Surrogate:
    """The space of the known objective, as the ledger sees a space."""

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw settings."""
        for name, domain in DIMENSIONS.items():
            suggest_one(trial, name, domain)
        return dict(trial.params)

    def trial_recipe(self, params: dict[str, Any]) -> Any:
        """Return what stands for a recipe."""
        return SimpleNamespace(model_dump=lambda mode: {"params": params})

    def branch_of(self, params: dict[str, Any]) -> Any:
        """Return what stands for its place in the study."""
        del params
        return SimpleNamespace(label="surrogate", objective="surrogate")


class SurrogateTrial(tune.Trainable):
    """Says the objective's value at once."""

    def setup(self, config: dict[str, Any]) -> None:
        self.params = config["params"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        value = objective(self.params)
        news = TrialNews(Outcome.COMPLETE, percent=100, values=[value])
        return {NEWS: news.to_json(), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass


def study_config(seed: int, trials: int) -> StudyConfig:
    """Return settings of which only seed, sampler and budget matter here."""
    recipe = {"stages": {"shards": {"kind": "write_shards", "source": {"name": "strokes"}}}}
    return StudyConfig.model_validate(
        {
            "seed": seed,
            "recipe": recipe,
            "budget": {"trials": trials},
            "finalists": {"count": 0},
            "goals": [{"metric": "cpu_minutes"}],  # to be minimised
        }
    )


def opened(folder: str, seed: int, trials: int) -> Ledger:
    """Return the ledger of a new study in a journal."""
    path = Path(folder) / "study.journal"
    config = study_config(seed, trials)
    study = open_journal(path, config)
    store: Any = SimpleNamespace(study=study, sync=lambda: None)
    return Ledger(config, Surrogate(), store)  # type: ignore[arg-type]


def through_tune(seed: int, trials: int) -> float:
    """Return the best value that our sweep finds."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = opened(folder, seed, trials)
        trainable = tune.with_resources(SurrogateTrial, {"CPU": 1})
        drive(StudySearcher(ledger), trainable, Location.parse(folder) / "tune", at_once=2)
        return float(ledger.study.best_value)


def plain(seed: int, trials: int) -> float:
    """Return the best value that Optuna alone finds, with the same settings of TPE."""
    sampler = build_sampler(study_config(seed, trials), 0)
    study = optuna.create_study(sampler=sampler)
    space = Surrogate()
    study.optimize(lambda trial: objective(space.suggest(trial)), n_trials=trials)
    return float(study.best_value)


def latency(trials: int) -> None:
    """Print the time of a suggestion as the study grows."""
    print("\ntrials in the study   ms from asking to settings (median of 50)")
    with tempfile.TemporaryDirectory() as folder:
        ledger = opened(folder, 0, trials + 1)
        seconds: list[float] = []
        for number in range(trials):
            began = time.perf_counter()
            job = ledger.next()
            seconds.append(time.perf_counter() - began)
            assert job is not None
            value = objective(ledger.study.get_trials(deepcopy=False)[job.number].params)
            ledger.finish(job.number, TrialNews(Outcome.COMPLETE, percent=100, values=[value]))
            if (number + 1) in (100, 250, 500, 1000, trials):
                print(f"{number + 1:>19}   {1000 * statistics.median(seconds[-50:]):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--latency", type=int, default=1000, help="trials of that part; 0: skip")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.seeds:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        pairs = [
            (through_tune(seed, args.trials), plain(seed, args.trials))
            for seed in range(args.seeds)
        ]
        for seed, (ours, theirs) in enumerate(pairs):
            print(f"seed {seed:>2}: regret through Tune {ours:.4f}, plain Optuna {theirs:.4f}")
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"medians {ours:.4f} and {theirs:.4f}, ratio {ours / theirs:.2f}")
        ray.shutdown()
    if args.latency:
        latency(args.latency)


if __name__ == "__main__":
    main()
