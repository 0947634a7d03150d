"""Who shares episodes with whom, and why others do not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from pipelines.compare.asked import Asked
from pipelines.compare.panel import Row


def by_bank(rows: Sequence[Row]) -> dict[Asked, list[Row]]:
    """Return the rows of each bank, banks in order of ways and shots."""
    found: dict[Asked, list[Row]] = {}
    for row in rows:
        found.setdefault(row.answers[0].bank, []).append(row)
    return dict(sorted(found.items(), key=lambda pair: pair[0].order))


def unshared(banks: Mapping[Asked, Sequence[Row]]) -> list[str]:
    """Return a sentence for each bank that is in no table, or in another than most methods."""
    notes = []
    for setting in dict.fromkeys(str(bank) for bank in banks):
        alike = {bank: own for bank, own in banks.items() if str(bank) == setting}
        main = max(alike, key=lambda bank: len(alike[bank]))
        most = listed(_with_seeds(row) for row in alike.pop(main))
        if len(banks[main]) == 1 and not alike:
            notes.append(f"{setting}: only {most} answered all of it, so it is in no table.")
        there = {row.name for row in banks[main]}
        for bank, own in alike.items():
            absent = [row for row in own if row.name not in there]
            if not absent:
                continue  # they are in both tables
            names = listed(_with_seeds(row) for row in absent)
            notes.append(
                f"{setting}: {names} did not answer the same {bank.unit} as {most}: "
                f"{', '.join(bank.reasons(main))}. {bank.remedy(main)}."
            )
    return notes


def title(bank: Asked, banks: Collection[Asked]) -> str:
    """Return ways and shots, and what tells the bank from others of the same."""
    alike = [other for other in banks if str(other) == str(bank)]
    differing = [
        text
        for name, text in bank.traits().items()
        if len({getattr(one, name) for one in alike}) > 1
    ]
    return ", ".join([str(bank), *differing])


def listed(names: Iterable[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _with_seeds(row: Row) -> str:
    seeds = listed([str(item.seed) for item in row.answers if item.seed is not None] or [""])
    return f"{row.name} (seed {seeds})" if seeds else row.name
