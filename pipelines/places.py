"""Where a stage's files are: a directory named by label and key, and found by key alone.

A stage that was given another label keeps its directory, and repeats nothing.
"""

from __future__ import annotations

from data_shards.location import Location
from pipelines.records import RESULT

KEY_DIGITS = 12
"""Digits of a stage's key in the name of its directory."""


class Places:
    """The stage directories of a run, as they were when first asked for.

    Args:
        root: the run directory, which need not exist.
    """

    def __init__(self, root: Location) -> None:
        self.root = root
        self._names: dict[str, list[str]] = {}  # by the key's first digits
        for item in root.list() if root.is_dir() else []:
            label, _, digits = item.name.rpartition("-")
            if label and len(digits) == KEY_DIGITS:
                self._names.setdefault(digits, []).append(item.name)

    def of(self, label: str, key: str) -> Location:
        """Return the directory of a stage: its own, else that of a stage with the same key.

        Of several others a finished one is taken. Asked again with the same key and another
        label, it returns the same directory: in one recipe equal stages are one.
        """
        names = self._names.setdefault(key[:KEY_DIGITS], [])
        own = f"{label}-{key[:KEY_DIGITS]}"
        if own in names:
            return self.root / own
        if not names:
            names.append(own)
        done = [name for name in names if (self.root / name / RESULT).exists()]
        return self.root / (done or names)[0]
