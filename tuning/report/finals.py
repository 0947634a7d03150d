"""The paired comparison of the best trials on fresh tasks, as the sweep left it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from data_shards.location import Location
from fsl.errors import ConfigError
from pipelines.train_config import ValidationConfig
from tuning.recipe_tree import source_tree
from tuning.report.view import StudyView

CURSE = (
    "The best of many trials looks better in the search than it is: of equally good trials the "
    "search prefers the one whose luck was best with the search's tasks. Only the fresh tasks say "
    "how good it is."
)


def finals(root: Location, view: StudyView) -> dict[str, Any] | None:
    """Return the comparison's tables and picture, or None when there is none."""
    place = root / "finalists.json"
    if not place.exists():
        return None
    tree = json.loads(place.read_text())
    picture = root / "finalists.png"
    return {
        "panels": [_panel(panel, view) for panel in tree["panels"]],
        "picture": _inline(picture) if picture.exists() else "",
        "remarks": [*tree["cautions"], *tree["notes"]],
        "curse": CURSE,
    }


def trial_number(name: str) -> int | None:
    """Return the trial that a finalist's name stands for."""
    found = re.search(r"trial_(\d+)", name)
    return int(found.group(1)) if found else None


def _panel(panel: Mapping[str, Any], view: StudyView) -> dict[str, Any]:
    bank = panel["bank"]
    values = {trial.number: trial.values[0] for trial in view.complete}
    trials = {trial.number: trial for trial in view.trials}
    rows = []
    for row in panel["rows"]:
        number = trial_number(row["name"])
        before = values.get(number) if number is not None and _alike(view, bank) else None
        rows.append(
            {
                "number": number,
                "name": row["name"] if number is None else f"trial {number}",
                "recipe": trials[number].recipe if number in trials else "",
                "mean": f"{100 * row['mean']:.2f} ± {100 * row['half_width']:.2f}",
                "classes": _classes(row),
                "before": None if before is None else f"{100 * before:.2f}",
                "leader": row["name"] in panel["leaders"],
            }
        )
    return {
        "title": panel["title"],
        "tasks": bank["tasks"],
        "rows": rows,
        "words": [_named(sentence) for sentence in panel["words"]],
        "with_search": any(row["before"] for row in rows),
    }


def _classes(row: Mapping[str, Any]) -> str:
    half = row["class_half_width"]
    if half is None:
        return "–"
    return f"{'≤' if row['class_half_width_is_a_bound'] else '±'} {100 * half:.2f}"


def _named(sentence: str) -> str:
    """Return a sentence with trials named as on the page."""
    return re.sub(r"\btrial_0*(\d+)\b", r"trial \1", sentence)


def _alike(view: StudyView, bank: Mapping[str, Any]) -> bool:
    """Say whether the search judged by tasks of the same ways and shots, in accuracy."""
    if view.measure.metric != "val_accuracy":
        return False
    label, branch = next(iter(view.config.recipes.items()))
    try:
        tree, objective = source_tree(view.config, branch, label)
    except ConfigError:  # the recipe is gone; nothing is claimed then
        return False
    judged = ValidationConfig.model_validate(tree["stages"][objective].get("validation", {}))
    return (judged.ways, judged.shots) == (bank["ways"], bank["shots"])


def _inline(picture: Location) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
