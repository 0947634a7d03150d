"""Words for people: metrics, values, settings and ends of trials."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from tuning.config import SCORE
from tuning.outcome import Outcome

METRIC_WORDS = {
    "val_accuracy": "validation accuracy",
    "images_per_second": "images per second",
    "cpu_minutes": "CPU minutes",
    "step_seconds": "seconds per step",
}
OUTCOME_WORDS = {
    Outcome.COMPLETE: "finished",
    Outcome.PRUNED: "stopped early",
    Outcome.INFEASIBLE: "impossible settings",
    Outcome.FAILED: "failed",
}


def value_words(metric: str, value: float) -> str:
    """Return a metric's value as people read it: accuracies in percent, others in four digits."""
    if not math.isfinite(value):
        return "not a number"
    return f"{100 * value:.2f} %" if metric == SCORE else f"{value:.4g}"


def setting_words(value: Any) -> str:
    """Return a searched value, short."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace(", ", ",")


def settings(trial: FrozenTrial) -> Mapping[str, str]:
    """Return a trial's searched settings without the name of its recipe."""
    label = trial.user_attrs.get("recipe", "")
    several = trial.params.get("recipe") == label
    prefix = f"{label}." if several else ""
    return {
        name.removeprefix(prefix): setting_words(value)
        for name, value in trial.params.items()
        if not (several and name == "recipe")
    }
