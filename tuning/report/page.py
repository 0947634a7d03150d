"""A study as one HTML file without anything outside it; at any moment of the search."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from optuna.distributions import BaseDistribution

from data_shards.location import Location
from pipelines.commands import duration
from pipelines.credentials import without_credentials
from tuning.config import StudyConfig
from tuning.report import curves, history, importance, parallel, pareto, recipes, slices
from tuning.report.cost import budget_words, cost_rows, outcome_words, stage_rows
from tuning.report.finals import finals
from tuning.report.scale import Scale, scale_of
from tuning.report.view import OUTCOMES, StudyView, TrialView
from tuning.report.words import counted, listed
from tuning.store import read_study
from tuning.words import setting_words

PAGE = "report.html"
BEST = "best.yaml"


def write_report(root: Location) -> Location:
    """Write `report.html` into a study's directory, from what is there; returns where it is.

    Raises:
        ConfigError: no study is there.
    """
    config, study = read_study(root)
    place = root / PAGE
    place.write_text(render(root, config, study))
    return place


def render(root: Location, config: StudyConfig, study: optuna.Study) -> str:
    """Return the page of a study whose files are in `root`."""
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("tuning", "templates"), PackageLoader("pipelines", "templates")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"setting": setting_words, "duration": duration}
    view = StudyView(config, study)
    best = root / BEST
    return environment.get_template("study.html.j2").render(
        view=view,
        root=str(root),
        made=time.strftime("%Y-%m-%d %H:%M"),
        state=state_words(view),
        budget=listed(budget_words(view)),
        keys={"history": history.KEY, "curves": curves.KEY, "pareto": pareto.KEY,
              "importance": importance.KEY, "parallel": parallel.KEY, "slices": slices.KEY},
        best_recipe=best.read_text() if best.exists() else "",
        best_is_older=best.exists() and _older(best.read_text(), view),
        finals=finals(root, view),
        history=history.history(view),
        pareto=pareto.pareto(view),
        curves=curves.learning_curves(view),
        recipe_rows=recipes.recipe_rows(view) if len(view.recipes) > 1 else [],
        strip=recipes.strip(view, recipes.recipe_rows(view)) if _several(view) else None,
        settings=[_settings(view, recipe) for recipe in view.recipes if view.of(recipe)],
        fewest=importance.FEWEST,
        stops=_stops(view),
        lost=[t for t in view.trials if t.outcome in ("infeasible", "failed")],
        costs=cost_rows(view),
        stages=stage_rows(view),
        outcome_words=outcome_words,
        counted=counted,
        listed=listed,
        table=_table(view),
        study_yaml=without_credentials(
            yaml.safe_dump(_short(config), sort_keys=False, allow_unicode=True)
        ),
    )  # fmt: skip


def _older(recipe: str, view: StudyView) -> bool:
    """Return whether trials ended after `best.yaml` was written."""
    said = re.search(r"^# (\d+) trials, (\d+) of them complete", recipe, re.MULTILINE)
    return said is None or int(said[2]) != len(view.complete)


def state_words(view: StudyView) -> str:
    """Return how many trials there are and how they ended."""
    if not view.trials:
        return "no trial has begun"
    counts = view.counts()
    parts = [f"{counts[o]} {outcome_words(o)}" for o in OUTCOMES if counts[o]]
    return f"{counted(len(view.trials), 'trial')}: {', '.join(parts)}"


def _several(view: StudyView) -> bool:
    return len(view.recipes) > 1 and bool(view.complete)


def _settings(view: StudyView, recipe: str) -> dict[str, Any]:
    """Return importance, parallel coordinates and slices of one recipe."""
    found = importance.importances(view, recipe)
    scales = _scales(view, recipe, [entry.key for entry in found])
    return {
        "recipe": recipe,
        "count": len(scales),
        "importance": importance.importance_chart(view, recipe, found) if found else None,
        "parallel": parallel.parallel(view, recipe, scales),
        "parallel_shown": min(len(scales), parallel.SHOWN),
        "slices": [
            (goal.title, slices.slices(view, recipe, scales, at))
            for at, goal in enumerate(view.measures)
        ],
        "finished": any(trial.values for trial in view.of(recipe)),
        "slices_shown": min(len(scales), slices.SHOWN),
    }


def _scales(view: StudyView, recipe: str, ordered: Sequence[str]) -> list[Scale]:
    """Return the settings of a recipe that have more than one value, the important first."""
    domains: dict[str, BaseDistribution] = {}
    for trial in view.of(recipe):
        domains |= {k: domain for k, domain in trial.ranges.items() if not domain.single()}
    keys = dict.fromkeys([*(key for key in ordered if key in domains), *domains])
    return [scale_of(key, domains[key]) for key in keys]


def _stops(view: StudyView) -> str:
    """Return where trials were stopped, in words."""
    found = Counter(trial.percent for trial in view.trials if trial.outcome == "pruned")
    return listed(f"{count} at {at} %" for at, count in sorted(found.items())) if found else ""


def _table(view: StudyView) -> list[TrialView]:
    """Return all trials: complete ones, best first, then the others, then earlier studies'."""
    first = view.ranked(view.complete)
    place = {outcome: at for at, outcome in enumerate(OUTCOMES)}
    others = [trial for trial in view.trials if not trial.values]
    others.sort(key=lambda trial: (place[trial.outcome], -trial.percent, trial.number))
    return [*first, *others, *view.known]


def _short(config: StudyConfig) -> Mapping[str, Any]:
    """Return the settings of the study without the recipes' own text."""
    content = config.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    for branch in content.get("recipes", {}).values():
        if isinstance(branch.get("recipe"), dict):
            branch["recipe"] = "(in study.yaml)"
    return content
