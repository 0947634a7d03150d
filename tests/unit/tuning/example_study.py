"""A study as a sweep leaves it: two recipes, forty trials of every fate, no training.

`protonet` is simple and good, `smkd` has more settings and hurts itself with some of them. Trial 0
comes from an earlier study, 8 was asked twice, 38 and 39 are still running.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.unit.tuning.example_fates import (
    DOMAINS,
    FAILED,
    REPEATED,
    RUNNING,
    SOURCE,
    Fate,
    fates,
)
from tuning.config import GoalConfig, StudyConfig
from tuning.journal import JOURNAL, open_journal
from tuning.study_record import write_settings

__all__ = ["FAILED", "REPEATED", "RUNNING", "SOURCE"]

FOLDER = Path(__file__).parents[3] / "recipes"
TRIALS = 40
BEGUN = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
RECIPES = CategoricalDistribution(["protonet", "smkd"])


def example_config(**changes: Any) -> StudyConfig:
    """Return the settings that belong to the example."""
    own = {"method": "own", "optim.lr": {"low": 3e-4, "high": 1e-2, "log": True}}
    values: dict[str, Any] = {
        "name": "example",
        "recipes": {
            "protonet": {"recipe": f"{FOLDER}/omniglot_protonet.yaml", "search": own},
            "smkd": {"recipe": f"{FOLDER}/omniglot_smkd.yaml", "stage": "distill", "search": own},
        },
        "validation": {"ways": 5, "shots": 1, "queries": 5, "tasks": 200},
        "budget": {"trials": 60, "device_hours": 3.0},
        "pruner": {"name": "asha"},
    }
    return StudyConfig.model_validate({**values, **changes})


def two_goals() -> list[GoalConfig]:
    """Return accuracy against the time of a step."""
    return [
        GoalConfig(metric="val_accuracy", direction="maximize"),
        GoalConfig(metric="step_seconds", direction="minimize"),
    ]


def example_study(trials: int = TRIALS, study: optuna.Study | None = None) -> optuna.Study:
    """Return the example, or its first trials; in memory unless a study is given."""
    found = study or optuna.create_study(study_name="example", direction="maximize")
    for fate in fates(trials):
        values = None if fate.outcome != "complete" else [max(fate.curve.values())]
        found.add_trial(_trial(fate, values, fate.curve))
    return found


def two_goal_study(trials: int = 24) -> optuna.Study:
    """Return the example with two goals, in which nothing is pruned."""
    study = optuna.create_study(study_name="two", directions=["maximize", "minimize"])
    for fate in fates(trials, keep_all=True):
        values = None
        if fate.outcome == "complete":
            values = [max(fate.curve.values()), fate.step_seconds]
        study.add_trial(_trial(fate, values, {}))
    return study


def stored_example(folder: Path, trials: int = TRIALS, **changes: Any) -> StudyConfig:
    """Write the example's settings and journal into a folder, as a sweep leaves them."""
    config = example_config(study_dir=str(folder), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(config.root, config)
    example_study(trials, open_journal(folder / JOURNAL, config))
    return config


def empty_study() -> optuna.Study:
    """Return a study of which no trial has begun."""
    return optuna.create_study(study_name="empty", direction="maximize")


def _trial(fate: Fate, values: list[float] | None, curve: Mapping[int, float]) -> FrozenTrial:
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    states |= {"infeasible": TrialState.PRUNED, "running": TrialState.RUNNING}
    state = states.get(fate.outcome, TrialState.FAIL)
    begun = BEGUN + timedelta(seconds=150 * fate.number)
    domains = {f"{fate.recipe}.{key}": domain for key, domain in DOMAINS[fate.recipe].items()}
    trial = create_trial(
        state=state,
        values=values,
        params={"recipe": fate.recipe}
        | {f"{fate.recipe}.{key}": value for key, value in fate.params.items()},
        distributions={"recipe": RECIPES, **domains},
        intermediate_values=dict(curve),
        user_attrs=_attributes(fate, begun),
    )
    # create_trial says "now"; it must look the same every time
    trial.datetime_start = begun.replace(tzinfo=None)
    if state.is_finished():
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=fate.seconds)
    return trial


def _attributes(fate: Fate, begun: datetime) -> dict[str, Any]:
    if fate.outcome == "repeat":
        return {"recipe": fate.recipe, "outcome": "repeat", "reason": fate.reason}
    percent = max(fate.curve, default=0)
    metrics = {"step_seconds": fate.step_seconds, "images_per_second": 64 / fate.step_seconds}
    if fate.curve:
        metrics["val_accuracy"] = max(fate.curve.values())
    if percent == 100:
        metrics |= {"cpu_minutes": fate.seconds / 60, "loss": 3.1 - 2 * fate.curve[100]}
    attributes: dict[str, Any] = {
        "recipe": fate.recipe,
        "stages": _stages(fate),
        "ran": ["protonet"] if fate.recipe == "protonet" else ["distill"],
        "reused": ["shards"] if fate.recipe == "protonet" else ["shards", "pretrain"],
        "seconds": fate.seconds,
        "device_seconds": fate.seconds,
        "epochs": round(0.06 * percent, 2),
        "attempts": 2 if fate.number in (FAILED, 21) else 1,
        "metrics": metrics,
        "started": begun.isoformat(timespec="milliseconds"),
    }
    if fate.number == 1:
        attributes |= {"ran": list(attributes["stages"]), "reused": []}
    if fate.outcome != "running":
        ended = begun + timedelta(seconds=fate.seconds)
        attributes |= {
            "outcome": fate.outcome,
            "reason": fate.reason,
            "infeasible": [float(fate.outcome == "infeasible")],
            "finished": ended.isoformat(timespec="milliseconds"),
        }
    if fate.number == SOURCE:
        attributes |= {"source": "studies/earlier", "stages": {}, "ran": [], "reused": []}
    return attributes


def _stages(fate: Fate) -> dict[str, str]:
    key = hashlib.sha256(json.dumps(fate.params, sort_keys=True).encode()).hexdigest()[:12]
    if fate.recipe == "protonet":
        return {"shards": "shards-4be1c0ffee01", "protonet": f"protonet-{key}"}
    shared = {"shards": "shards-4be1c0ffee01", "pretrain": "pretrain-77aa00bb12cd"}
    return {**shared, "distill": f"distill-{key}"}
