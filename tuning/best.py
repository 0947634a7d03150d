"""The best settings of a study as a recipe that `fewshot run` takes as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from data_shards.location import Location
from pipelines.credentials import without_credentials
from tuning.config import StudyConfig
from tuning.outcome import own_trials
from tuning.recipe_tree import STAGES_DIR
from tuning.space import Space

BEST = "best.yaml"


def write_best(space: Space, config: StudyConfig, study: optuna.Study) -> Location | None:
    """Write `best.yaml` into the study's directory; None, and no file, without a complete trial.

    With several goals it is the trial that is best in the first one; the others are on the Pareto
    front in the report.
    """
    trial = best_trial(config, study)
    if trial is None:
        return None
    recipe: str = yaml.safe_dump(space.full_recipe(trial.params), sort_keys=False)
    text = "\n".join(_head(space, config, study, trial)) + "\n\n" + recipe
    place = config.root / BEST
    place.write_text(without_credentials(text))
    return place


def best_trial(config: StudyConfig, study: optuna.Study) -> FrozenTrial | None:
    """Return this study's own complete trial that is best in the first goal, then in the others."""
    complete = [trial for trial in own_trials(study) if trial.state == TrialState.COMPLETE]
    signs = [-1.0 if goal.direction == "maximize" else 1.0 for goal in config.goals]
    return min(
        complete,
        key=lambda trial: [sign * v for sign, v in zip(signs, trial.values, strict=True)],
        default=None,
    )


def _head(space: Space, config: StudyConfig, study: optuna.Study, trial: FrozenTrial) -> list[str]:
    """Return the comment above the recipe."""
    branch = space.branch_of(trial.params)
    trials = own_trials(study)
    complete = sum(other.state == TrialState.COMPLETE for other in trials)
    values = ", ".join(
        f"{goal.metric} {value:.6g}" for goal, value in zip(config.goals, trial.values, strict=True)
    )
    lines = [
        f"Best of the study {config.name!r}: trial {trial.number}, {values}.",
        f"{len(trials)} trials, {complete} of them complete; recipe {branch.origin}, judged by "
        f"stage {branch.objective!r}.",
        "",
        f"  fewshot run {BEST}",
        "",
        "What the trial has trained is found again, and not repeated, with",
        f"  run_dir={config.root / STAGES_DIR}",
        "",
        "The best of many is partly the luckiest: expect less on new tasks"
        + ("; finalists.md compares the best on fresh ones." if config.finalists.count else "."),
        "",
        "Searched:",
        *_searched(branch.values(trial.params)),
    ]
    return [f"# {line}".rstrip() for line in lines]


def _searched(values: Mapping[str, Any]) -> list[str]:
    width = max(map(len, values))
    return [f"  {key:<{width}}  {value}" for key, value in values.items()]
