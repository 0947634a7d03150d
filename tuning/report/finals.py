"""The paired comparison of the best trials on fresh tasks, as the sweep left it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_shards.location import Location
from fsl.errors import ConfigError
from pipelines.report.charts import COLOURS, INK
from pipelines.train_config import ValidationConfig
from tuning.config import SCORE
from tuning.recipe_tree import source_tree
from tuning.report.history import titles
from tuning.report.paper import GREY, Drawing, axes_of, drawing, grid, points
from tuning.report.view import StudyView

CURSE = (
    "Of equally good trials the search prefers the one that was luckiest with its tasks (the "
    "winner's curse). Only fresh tasks, the same for all finalists, say how good they are."
)
NO_GOAL = (
    "The search did not choose by accuracy. Fresh tasks, the same for all finalists, say how good "
    "they are in it."
)
KEY = (
    "Dot: accuracy on the fresh tasks, line: 95 % over tasks, bar: 95 % over classes; blue: cannot "
    "be told from the best."
)
KEY_OF_SEARCH = "Diamond: what the same trial had in the search."
FINALISTS = "finalists.json"


@dataclass(frozen=True)
class Finalist:
    """One row of the comparison; accuracies and differences in percent.

    Attributes:
        number: of the trial, if the name tells it.
        name: for people.
        mean: accuracy on the fresh tasks.
        half: half-width of its interval over tasks.
        class_half: half-width over classes, if it can be told.
        at_most: whether `class_half` is a bound.
        before: accuracy in the search, if its tasks were of the same kind.
        leader: whether it cannot be told from the best.
        difference: from the best, with its half-width, in words.
        verdict: whether that is real.
    """

    number: int | None
    name: str
    mean: float
    half: float
    class_half: float | None
    at_most: bool
    before: float | None
    leader: bool
    difference: str
    verdict: str

    @property
    def classes(self) -> str:
        """The interval over classes in words."""
        if self.class_half is None:
            return "–"
        return f"{'≤' if self.at_most else '±'} {self.class_half:.2f}"


@dataclass(frozen=True)
class FinalsPanel:
    """The comparison at one number of ways and shots."""

    title: str
    tasks: int
    rows: Sequence[Finalist]
    words: Sequence[str]
    picture: Drawing
    key: str


@dataclass(frozen=True)
class Finals:
    """The whole comparison."""

    panels: Sequence[FinalsPanel]
    remarks: Sequence[str]
    curse: str


def finals(root: Location, view: StudyView) -> Finals | None:
    """Return the comparison in a study's directory, or None when there is none."""
    place = root / FINALISTS
    if not place.exists():
        return None
    tree = json.loads(place.read_text())
    panels = [_panel(panel, view) for panel in tree["panels"]]
    remarks = [named(words) for words in [*tree["cautions"], *tree["notes"]]]
    chose = any(measure.metric == SCORE for measure in view.measures)
    return Finals(panels, remarks, CURSE if chose else NO_GOAL)


def trial_number(name: str) -> int | None:
    """Return the trial that a finalist's name stands for."""
    found = re.search(r"trial_(\d+)", name)
    return int(found.group(1)) if found else None


def named(sentence: str) -> str:
    """Return a sentence with trials named as on the page."""
    sentence = re.sub(r"(^|\. )trial_0*(\d+)", r"\1Trial \2", sentence)
    return re.sub(r"\btrial_0*(\d+)\b", r"trial \1", sentence)


def _panel(panel: Mapping[str, Any], view: StudyView) -> FinalsPanel:
    alike = _alike(view, panel["bank"])
    rows = [_finalist(row, panel, view, alike) for row in panel["rows"]]
    return FinalsPanel(
        title=panel["title"],
        tasks=panel["bank"]["tasks"],
        rows=rows,
        words=[named(sentence) for sentence in panel["words"]],
        picture=_forest(rows, view, panel["title"]),
        key=f"{KEY} {KEY_OF_SEARCH}" if alike else KEY,
    )


def _finalist(
    row: Mapping[str, Any], panel: Mapping[str, Any], view: StudyView, alike: bool
) -> Finalist:
    number = trial_number(row["name"])
    values = {trial.number: trial.values[0] for trial in view.complete}
    before = values.get(number) if number is not None and alike else None
    difference, verdict = _against_best(row["name"], panel)
    half = row["class_half_width"]
    return Finalist(
        number=number,
        name=row["name"] if number is None else f"trial {number}",
        mean=100 * row["mean"],
        half=100 * row["half_width"],
        class_half=None if half is None else 100 * half,
        at_most=row["class_half_width_is_a_bound"],
        before=None if before is None else 100 * before,
        leader=row["name"] in panel["leaders"],
        difference=difference,
        verdict=verdict,
    )


def _against_best(name: str, panel: Mapping[str, Any]) -> tuple[str, str]:
    """Return the difference from the best row, and what it is worth."""
    for entry in panel["differences"]:
        if {entry["a"], entry["b"]} == {name, panel["reference"]} and name != panel["reference"]:
            mean = 100 * (entry["mean"] if entry["a"] == name else -entry["mean"])
            words = f"{mean:+.2f} ± {100 * entry['half_width']:.2f}".replace("-", "−")
            return words, entry["verdict"]
    return "", "(the best)"


def _forest(rows: Sequence[Finalist], view: StudyView, title: str) -> Drawing:
    """Return accuracies with intervals, and what they were in the search."""
    figure, axes = axes_of(7.2, 0.7 + 0.34 * len(rows))
    for place, row in enumerate(rows):
        colour = COLOURS[0] if row.leader else GREY
        if row.class_half is not None:
            look = {"color": colour, "alpha": 0.3, "lw": 7, "fmt": "none"}
            axes.errorbar(row.mean, place, xerr=row.class_half, **look)
        axes.errorbar(row.mean, place, xerr=row.half, color=colour, lw=1.8, fmt="o", ms=5)
        if row.before is not None and row.number is not None:
            look = {"facecolors": "none", "edgecolors": INK, "marker": "D", "s": 26, "lw": 1.1}
            points(axes, [row.before], [place], [row.number], zorder=4, **look)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlabel("accuracy in %")
    grid(axes, "x")
    return drawing(figure, f"finalists, {title}", titles(view))


def _alike(view: StudyView, bank: Mapping[str, Any]) -> bool:
    """Say whether the search judged by the same sort of tasks, and in accuracy."""
    if view.measure.metric != SCORE:
        return False
    label, branch = next(iter(view.config.recipes.items()))
    try:
        tree, objective = source_tree(view.config, branch, label)
    except ConfigError:  # the recipe is gone; nothing is claimed then
        return False
    judged = ValidationConfig.model_validate(tree["stages"][objective].get("validation", {}))
    return all(getattr(judged, name) == bank[name] for name in ("split", "ways", "shots"))
