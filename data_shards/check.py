"""Finds everything that is wrong with a shard set, not only the first thing.

A tar reader that meets a zeroed stretch ends the shard without a word, and most of it is silently
gone. The index knows what must be there, so here every such loss has a sentence.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from data_shards.location import Location
from data_shards.manifest import INDEX_NAME, ShardSet, Split, read_index
from data_shards.manifest_builder import content_digest
from data_shards.shard_check import Fault, ShardChecker
from data_shards.splits import HELD_OUT
from fsl.errors import ShardError

SHOWN = 50


@dataclass(frozen=True)
class CheckReport:
    """What was checked and what was found."""

    root: Location
    shards: int
    samples: int
    deep: bool
    faults: list[Fault]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def __str__(self) -> str:
        depth = "every image decoded" if self.deep else "checksums only"
        head = f"{self.root}: {self.shards} shards, {self.samples} samples, {depth}"
        if self.ok:
            return f"{head}: no fault"
        lines = [str(fault) for fault in self.faults[:SHOWN]]
        if len(self.faults) > SHOWN:
            lines.append(f"... and {len(self.faults) - SHOWN} more")
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        return "\n".join([f"{head}: {count}", *lines])


def check_shards(root: Location, deep: bool = True, progress: bool = True) -> CheckReport:
    """Return a report of all faults of the shard set at `root`.

    Args:
        root: the shard set, local or remote (shards are then fetched one at a time).
        deep: also decode every image and compare every label; else checksums alone.
        progress: show a bar on stderr.

    Raises:
        ShardError: there is no readable index, so nothing can be compared.
    """
    shard_set = ShardSet.open(root)
    faults: list[Fault] = []
    report = CheckReport(root, len(shard_set.files), len(shard_set), deep, faults)
    try:
        faults += _check_index(shard_set)
        shared = _SharedImages(shard_set)
    except (
        pa.ArrowException,
        OSError,
        ShardError,
    ) as error:  # without rows nothing can be compared
        reason = " ".join(str(error).split())
        faults.append(Fault(INDEX_NAME, None, None, f"cannot be read: {reason}"))
        return report
    faults += _unknown_shards(shard_set)
    with tqdm(
        total=len(shard_set.files), unit=" shards", desc="check", disable=not progress
    ) as bar:
        for name in shard_set.splits:
            split = shard_set.split(name)
            for number in range(len(split.files)):
                faults += ShardChecker(split, number, deep, shared.add).run()
                bar.update()
    faults += shared.faults
    return report


def _check_index(shard_set: ShardSet) -> list[Fault]:
    """Return the faults that the index shows by itself."""
    sentences = []
    digest = content_digest(
        read_index(shard_set.root), shard_set.class_names, shard_set.files, shard_set.file_splits
    )
    if digest != shard_set.digest:
        sentences.append(f"its rows were changed after it was written; {shard_set.remedy}")
    sentences += _class_faults(shard_set.class_names)
    faults = [Fault(INDEX_NAME, None, None, sentence) for sentence in sentences]
    return faults + _repeated_keys(shard_set)


def _class_faults(class_names: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence per class that is where it must not be; `held_out` has those of `base`."""
    owner: dict[str, str] = {}
    trained = set(class_names.get("base", ()))
    sentences = []
    for split, names in class_names.items():
        for name in names:
            if split == HELD_OUT:
                if name not in trained:
                    sentences.append(f"class {name!r} is in split {split!r} and not in 'base'")
            elif owner.setdefault(name, split) != split:
                sentences.append(f"class {name!r} is in split {owner[name]!r} and in {split!r}")
        sentences += [
            f"class {name!r} is twice in split {split!r}"
            for name, count in Counter(names).items()
            if count > 1
        ]
    return sentences


def _repeated_keys(shard_set: ShardSet) -> list[Fault]:
    faults = []
    for name in shard_set.splits:
        split = shard_set.split(name)
        seen: set[str] = set()
        for row, key in enumerate(split.keys.to_pylist()):
            if key in seen:
                shard, offset = split.files[split.shards[row]].name, int(split.offsets[row])
                faults.append(Fault(shard, key, offset, f"key occurs twice in split {name!r}"))
            seen.add(key)
    return faults


def _unknown_shards(shard_set: ShardSet) -> list[Fault]:
    """Return a fault for each tar that the index does not know."""
    root = shard_set.root
    known = {file.name for file in shard_set.files}
    prefix = root.path.rstrip("/") + "/"
    folders = [root, *(item for item in root.list() if item.is_dir())]
    names = [
        item.path.removeprefix(prefix)
        for folder in folders
        for item in folder.list()
        if item.name.endswith(".tar") and not item.name.startswith(".")
    ]
    sentence = "is not in the index: left from an earlier write; remove it or index again"
    return [Fault(name, None, None, sentence) for name in names if name not in known]


class _SharedImages:
    """Finds images that occur in two splits; hashes only those whose checksum and size do."""

    def __init__(self, shard_set: ShardSet) -> None:
        self.faults: list[Fault] = []
        self._first: dict[bytes, tuple[Split, int]] = {}
        settings = shard_set.source.get("settings", {})
        allowed = isinstance(settings, dict) and settings.get("shared_images") == "warn"
        found: Counter[int] = Counter()
        for name in [] if allowed else shard_set.splits:
            found.update(set(_marks(shard_set.split(name)).tolist()))
        self._suspects = {mark for mark, splits in found.items() if splits > 1}
        self._rows: dict[str, set[int]] = {}
        for name in shard_set.splits if self._suspects else []:
            marks = _marks(shard_set.split(name))
            rows = np.flatnonzero(np.isin(marks, list(self._suspects)))
            self._rows[name] = set(rows.tolist())

    def add(self, split: Split, row: int, content: bytes) -> None:
        """Note an image."""
        if row not in self._rows.get(split.name, ()):
            return
        first, first_row = self._first.setdefault(hashlib.sha256(content).digest(), (split, row))
        if first.name != split.name:
            sentence = (
                f"the same image is in split {first.name!r} as {first.key(first_row)!r}, so "
                f"results on {split.name!r} mean less; remove one and write again"
            )
            shard, offset = split.files[split.shards[row]].name, int(split.offsets[row])
            self.faults.append(Fault(shard, split.key(row), offset, sentence))


def _marks(split: Split) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return a number per image that equal images share, (N,)."""
    return split.crc32.astype(np.int64) * 2**31 + split.sizes
