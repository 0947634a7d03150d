"""What a table says, in sentences for somebody who meets these intervals for the first time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fsl.statistics import EVERYWHERE
from pipelines.compare.differences import Difference
from pipelines.compare.panel import Panel, Row
from pipelines.compare.sharing import listed

REAL_CLASSES = "other classes too"
REAL_HERE = "on these classes"
NOT_SURE = "cannot be told"


def verdict(difference: Difference) -> str:
    """Return whether a difference is real, in a few words."""
    if not difference.real:
        return NOT_SURE
    return REAL_CLASSES if difference.real_across_classes else REAL_HERE


def sentences(panel: Panel) -> list[str]:
    """Return what the table says: the best, what is behind it, and what cannot be told."""
    said = [_leaders(panel)]
    if panel.chosen:
        said += _sides(panel, "Better than", lambda difference: difference.mean > 0)
        said += _sides(panel, "Worse than", lambda difference: difference.mean < 0)
        said += _undecided(panel)
    else:
        said += _sides(panel, "Worse than", lambda difference: True)
    return [*said, *_training_runs(panel)]


def cautions(panels: Sequence[Panel]) -> list[str]:
    """Return what holds for all tables: how pairs were judged, which methods had one seed."""
    rows = [row for panel in panels for row in panel.rows if row.trained]
    names = dict.fromkeys(row.name for row in rows)
    once = dict.fromkeys(row.name for row in rows if len(_seeds(row, rows)) == 1)
    said = []
    pairs = max(panel.comparisons for panel in panels)
    if pairs > 1:
        said.append(
            f"The more pairs a table has (here up to {pairs}), the clearer a difference must be to "
            "be called real (Holm): the chance that even one such call in a table is wrong is "
            "below 5 %."
        )
    if once:
        every = len(once) > 1 and len(once) == len(names)
        who = "Every method" if every else listed(once)
        verb = "was" if every or len(once) == 1 else "were"
        said.append(f"{who} {verb} trained once: how much another seed would change is not known.")
    shared = dict.fromkeys(row.name for row in rows if row.shares_training)
    if shared:
        said.append(
            f"The runs of {listed(shared)} start from one earlier training: how much another seed "
            "of that would change is not known."
        )
    return said


def _seeds(row: Row, rows: Sequence[Row]) -> set[object]:
    """Return the seeds with which a row's method was trained, whatever rows they stand in."""
    method = row.answers[0].method, row.answers[0].protocol
    return {
        item.weights if item.seed is None else item.seed
        for other in rows
        for item in other.answers
        if (item.method, item.protocol) == method
    }


def _leaders(panel: Panel) -> str:
    best, *equals = [panel.rows[i] for i in panel.leaders]
    text = f"Best: {best.name} with {percent(best.mean.mean)} %"
    if not equals:
        second = panel.rows[1]
        return f"{text}, ahead of {second.name} by {amount(panel.differences[0, 1])}."
    names = listed(row.name for row in equals)
    return (
        f"{text}. {names} cannot be told from it: {_many(equals, 'its lag', 'their lags')} may be "
        f"the luck of these {panel.bank.tasks} {panel.bank.unit}."
    )


def _sides(panel: Panel, side: str, chosen: Callable[[Difference], bool]) -> list[str]:
    """Return up to two sentences: real over episodes only, real over classes."""
    reference = panel.rows[panel.reference].name
    wide: list[str] = []
    here: list[str] = []
    for i, row in enumerate(panel.rows):
        difference = panel.against_reference(i)
        if difference is None or not difference.real or not chosen(difference):
            continue
        text = f"{row.name} ({signed(difference.mean)})"
        (wide if difference.real_across_classes else here).append(text)
    said = []
    if here and not panel.bank.new_classes:
        said.append(f"{side} {reference}: {listed(here)}.")
    elif here and math.isnan(panel.rows[0].across.half_width):
        said.append(
            f"{side} {reference}: {listed(here)}. Whether other classes would show it cannot be "
            f"told, for {EVERYWHERE}."
        )
    elif here:
        said.append(
            f"{side} {reference} on these {panel.classes} classes, but other classes could turn "
            f"it round: {listed(here)}."
        )
    if wide:
        said.append(f"{side} {reference}, on other classes too: {listed(wide)}.")
    return said


def _undecided(panel: Panel) -> list[str]:
    """Return a sentence on the methods that cannot be told from the chosen baseline."""
    names = []
    for i, row in enumerate(panel.rows):
        difference = panel.against_reference(i)
        if difference is not None and not difference.real:
            names.append(f"{row.name} ({signed(difference.mean)})")
    reference = panel.rows[panel.reference].name
    return [f"Cannot be told from {reference}: {listed(names)}."] if names else []


def _training_runs(panel: Panel) -> list[str]:
    """Return which differences are within the spread over seeds."""
    within = []
    for i, row in enumerate(panel.rows):
        difference = panel.against_reference(i)
        if difference is not None and difference.real and difference.real_across_runs is False:
            within.append(f"{row.name} (± {points(difference.run_half_width)})")
    reference = panel.rows[panel.reference].name
    if not within:
        return []
    return [
        f"Trained again with other seeds, {_or(within)} could change places with {reference}: "
        "the spread over seeds is larger than the difference."
    ]


def _many(rows: Sequence[Row], one: str, more: str) -> str:
    return one if len(rows) == 1 else more


def _or(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def percent(value: float) -> str:
    """Return a fraction in percent with two decimals."""
    return f"{100 * value:.2f}"


def points(half_width: float) -> str:
    """Return a half-width in points, a dash where there is none."""
    return "–" if math.isnan(half_width) else f"{100 * half_width:.2f}"


def signed(value: float) -> str:
    """Return a difference in points with its sign; what rounds to zero has none."""
    text = f"{100 * abs(value):.2f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else "−"
    return sign + text


def amount(difference: Difference) -> str:
    """Return "0.43 ± 0.09 points"."""
    return f"{100 * abs(difference.mean):.2f} ± {points(difference.half_width)} points"
