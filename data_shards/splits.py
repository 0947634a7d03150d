"""Base, validation and novel classes: reading the lists people have, and checking them.

The three splits never share a class, and no image occurs in two of them: else an accuracy on
"novel" classes means nothing. A fourth, `held_out`, has other images of the base classes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsl.errors import ConfigError, ShardError

SPLITS = ("base", "val", "novel")
HELD_OUT = "held_out"
"""Further images of the base classes: the test set of ordinary classification."""
ALL_SPLITS = (*SPLITS, HELD_OUT)
ALIASES = {
    "base": "base", "train": "base", "training": "base",
    "val": "val", "valid": "val", "validation": "val",
    "novel": "novel", "test": "novel", "testing": "novel",
    "held_out": "held_out",
}  # fmt: skip
"""What others call the splits."""


def canonical_split(name: str) -> str:
    """Return the split that any usual name stands for; raises ConfigError."""
    if name.lower() not in ALIASES:
        raise ConfigError(
            f"split {name!r} is not known; use base, val, novel (or train, valid, test), held_out"
        )
    return ALIASES[name.lower()]


def read_class_list(path: Path) -> list[str]:
    """Return the class names of one split from a text or JSON file.

    Text: one name per line, `#` begins a comment line. JSON: a list of names, a list of
    [superclass, class] pairs, or a mapping with `class_names`.
    """
    text = _read(path)
    if path.suffix.lower() != ".json":
        lines = (line.strip() for line in text.splitlines())
        return _names([line for line in lines if line and not line.startswith("#")], path)
    tree = _json(text, path)
    return _names(tree.get("class_names") if isinstance(tree, dict) else tree, path)


def read_split_file(path: Path) -> dict[str, list[str]]:
    """Return the classes of every split from one JSON file: {"train": [...], "valid": [...]}."""
    tree = _json(_read(path), path)
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(f"{path}: expected a mapping of split names to lists of classes")
    return merge_aliases({name: _names(value, path) for name, value in tree.items()}, str(path))


def merge_aliases(lists: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the mapping under canonical split names, without empty lists."""
    found: dict[str, Any] = {}
    for name, value in lists.items():
        split = canonical_split(name)
        if split in found:
            raise ConfigError(f"{where}: split {split!r} is given twice, once as {name!r}")
        found[split] = value
    return {split: found[split] for split in ALL_SPLITS if found.get(split)}


def split_by_ratio(
    classes: Sequence[str], ratios: Mapping[str, float], seed: int
) -> dict[str, list[str]]:
    """Return classes dealt out at random in proportion to `ratios` (any positive numbers)."""
    weights = merge_aliases(ratios, "ratios")
    if not weights or min(weights.values()) < 0:
        raise ConfigError(f"ratios: {dict(ratios)}: give positive numbers for base, val, novel")
    shuffled = sorted(classes)
    random.Random(seed).shuffle(shuffled)
    total, passed, start = sum(weights.values()), 0.0, 0
    found: dict[str, list[str]] = {}
    for split, weight in weights.items():
        passed += weight
        stop = round(len(shuffled) * passed / total)
        if stop == start:
            raise ConfigError(
                f"ratios: {split!r} gets none of the {len(shuffled)} classes; "
                "raise its share or leave it out"
            )
        found[split] = sorted(shuffled[start:stop])
        start = stop
    return found


def check_disjoint(classes: Mapping[str, Iterable[str]], where: str) -> None:
    """Refuse a class that is in two splits, and one of `held_out` that is not in `base`."""
    owner: dict[str, str] = {}
    lists = {split: list(names) for split, names in classes.items()}
    strange = set(lists.pop(HELD_OUT, ())) - set(lists.get("base", ()))
    if strange:
        raise ConfigError(
            f"{where}: class {min(strange)!r} is in 'held_out' and not in 'base'; held_out is for "
            "further images of the base classes"
        )
    for split, names in lists.items():
        for name in names:
            other = owner.setdefault(name, split)
            if other != split:
                raise ConfigError(
                    f"{where}: class {name!r} is in {other!r} and in {split!r}; "
                    "a class belongs to one split"
                )


class SharedImages:
    """Finds the same image in two splits while samples pass by."""

    def __init__(self) -> None:
        self.count = 0
        self.example = ""
        self._seen: dict[bytes, tuple[str, str]] = {}

    def add(self, sha256: bytes, split: str, origin: str) -> None:
        """Note one image by the checksum of its bytes."""
        other_split, other = self._seen.setdefault(sha256[:16], (split, origin))
        if other_split != split:
            self.count += 1
            self.example = self.example or (
                f"the same image is in two splits: {other} ({other_split}) and {origin} ({split})"
            )

    def refuse(self) -> None:
        """Raise ShardError if any image was seen in two splits."""
        if self.count:
            raise ShardError(f"{self.example}; remove one, or set shared_images: warn to keep both")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read as a list of classes: {reason}") from None


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None


def _names(value: Any, path: Path) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{path}: expected a list of class names, found {str(value)[:60]!r}")
    names = [str(item[-1]) if isinstance(item, list) and item else item for item in value]
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"{path}: {name!r} is not a class name")
    twice = (
        {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    )
    if twice:
        raise ConfigError(f"{path}: class {min(twice)!r} is listed twice")
    return names
