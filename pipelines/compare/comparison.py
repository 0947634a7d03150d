"""From paths of runs to tables of methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_shards.location import Location
from fsl.errors import ConfigError, did_you_mean
from pipelines.compare.answers import (
    Answers,
    Wanted,
    without_eliminated,
    without_repeats,
)
from pipelines.compare.load import load
from pipelines.compare.names import named
from pipelines.compare.panel import Panel, Row, panel
from pipelines.compare.sharing import by_bank, listed, title, unshared

By = Literal["method", "seed"]


@dataclass(frozen=True)
class Comparison:
    """Methods compared where they answered the same episodes.

    Attributes:
        panels: one table per sealed bank, or images, that at least two methods answered.
        notes: what was left out or could not be compared, and why.
    """

    panels: Sequence[Panel]
    notes: Sequence[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The methods, in order of their place in the tables."""
        return list(dict.fromkeys(row.name for panel in self.panels for row in panel.rows))


def compare_runs(
    paths: Sequence[str | Path | Location],
    wanted: Wanted,
    *,
    baseline: str | None = None,
    by: By = "method",
) -> Comparison:
    """Return the tables of what the paths hold; see `pipelines.compare.compare`."""
    answers, notes = _read(paths)
    answers, stopped = without_eliminated(wanted.choose(answers))
    answers, repeats = without_repeats(answers)
    notes += [*stopped, *repeats]
    rows = _rows(answers, by)
    notes += dict.fromkeys(note for row in rows for note in _same_seeds(row))
    names = list(dict.fromkeys(row.name for row in rows))
    if not names:
        raise ConfigError("\n- ".join(["nothing is left to compare:", *stopped]))
    if len(names) == 1:
        chosen = ", or fewer of --labels and --protocol" * bool(wanted.labels or wanted.protocols)
        alone = f"only one method, {names[0]}: a comparison needs two; name another run{chosen}"
        raise ConfigError("\n- ".join([alone, *stopped]))
    if baseline is not None and baseline not in names:
        near = did_you_mean(baseline, names)
        raise ConfigError(
            f"--baseline: no method is called {baseline!r}{near}; there is {listed(names)}"
        )
    banks = by_bank(rows)
    shared = {bank: own for bank, own in banks.items() if len(own) > 1}
    notes += unshared(banks)
    if not shared:
        none = "no two methods answered the same episodes, or images:"
        raise ConfigError("\n- ".join([none, *notes]))
    panels = [panel(title(bank, shared), bank, own, baseline) for bank, own in shared.items()]
    return Comparison(panels, notes)


def _read(paths: Sequence[str | Path | Location]) -> tuple[list[Answers], list[str]]:
    """Return what the evaluations at the paths hold, and notes on what was left out."""
    answers: list[Answers] = []
    notes: list[str] = []
    for path in paths:
        found, said = load(path if isinstance(path, Location) else Location.parse(path))
        answers += found
        notes += said
    return answers, notes


def _rows(answers: Sequence[Answers], by: By) -> list[Row]:
    """Return a row per method and bank; with `by="seed"`, per training run and bank."""
    groups: dict[tuple[str, ...], list[Answers]] = {}
    for item in answers:
        one = () if by == "method" else (item.weights or str(item.place),)
        groups.setdefault((item.method, item.protocol, *one), []).append(item)
    rows = []
    for name, group in zip(named(list(groups.values())), groups.values(), strict=True):
        for bank in dict.fromkeys(item.bank for item in group):
            own = [item for item in group if item.bank == bank]
            rows.append(
                Row(name, sorted(own, key=lambda item: -1 if item.seed is None else item.seed))
            )
    return rows


def _same_seeds(row: Row) -> Iterator[str]:
    """Yield a note for each seed with which several runs of a row were trained."""
    for seed in dict.fromkeys(item.seed for item in row.answers if item.trained):
        places = [str(item.place) for item in row.answers if item.seed == seed]
        if seed is not None and len(places) > 1:
            yield f"{row.name}: trained several times with seed {seed}, counted once: " + listed(
                places
            )
