"""Who shares episodes with whom, and why others do not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from pipelines.compare.answers import Bank
from pipelines.compare.panel import Row

REMEDY = "Evaluate them with the same shards, split, queries, tasks and seed"
SEED_REMEDY = "Set seed in the evaluate stage: left out, it follows the recipe's"


def by_bank(rows: Sequence[Row]) -> dict[Bank, list[Row]]:
    """Return the rows of each bank, banks in order of ways and shots."""
    found: dict[Bank, list[Row]] = {}
    for row in rows:
        found.setdefault(row.answers[0].bank, []).append(row)
    return dict(sorted(found.items(), key=lambda pair: (pair[0].ways, pair[0].shots)))


def unshared(banks: Mapping[Bank, Sequence[Row]]) -> list[str]:
    """Return a sentence for each bank that is in no table, or in another than most methods."""
    notes = []
    for setting in dict.fromkeys(str(bank) for bank in banks):
        alike = {bank: own for bank, own in banks.items() if str(bank) == setting}
        main = max(alike, key=lambda bank: len(alike[bank]))
        most = listed(_with_seeds(row) for row in alike.pop(main))
        if len(banks[main]) == 1 and not alike:
            notes.append(f"{setting}: only {most} answered all of it, so it is in no table.")
        for bank, own in alike.items():
            names = listed(_with_seeds(row) for row in own)
            notes.append(
                f"{setting}: {names} did not answer the same episodes as {most}: "
                f"{', '.join(reasons(bank, main))}. {remedy(bank, main)}."
            )
    return notes


def reasons(bank: Bank, other: Bank) -> list[str]:
    """Return in what two banks of the same ways and shots differ."""
    found = []
    if bank.data != other.data:
        found.append(f"other data (digest {bank.data[:12]} instead of {other.data[:12]})")
    if bank.split != other.split:
        found.append(f"split {bank.split!r} instead of {other.split!r}")
    if bank.queries != other.queries:
        found.append(f"queries per class: {bank.queries} instead of {other.queries}")
    if bank.tasks != other.tasks:
        found.append(f"{bank.tasks} instead of {other.tasks} episodes")
    if bank.seed != other.seed:
        found.append(f"episodes drawn with seed {bank.seed} instead of {other.seed}")
    return found or ["drawn by another version of this program"]


def remedy(bank: Bank, other: Bank) -> str:
    """Return what to do so that two evaluations share their episodes."""
    return SEED_REMEDY if replace(bank, seed=other.seed, digest=other.digest) == other else REMEDY


def title(bank: Bank, banks: Collection[Bank]) -> str:
    """Return ways and shots, and what tells the bank from others of the same."""
    alike = [other for other in banks if str(other) == str(bank)]
    told = {
        "split": f"split {bank.split}",
        "queries": f"{bank.queries} queries",
        "tasks": f"{bank.tasks} episodes",
        "seed": f"episodes of seed {bank.seed}",
        "data": f"data {bank.data[:8]}",
    }
    differing = [
        text for name, text in told.items() if len({getattr(one, name) for one in alike}) > 1
    ]
    return ", ".join([str(bank), *differing])


def listed(names: Iterable[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _with_seeds(row: Row) -> str:
    seeds = listed([str(item.seed) for item in row.answers if item.seed is not None] or [""])
    return f"{row.name} (seed {seeds})" if seeds else row.name
