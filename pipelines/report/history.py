"""The stages that a result was made from, read from their directories.

Directories are told apart by their place, not by labels: a label may have been given to another
stage since.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from data_shards.location import Location
from fsl.errors import StageError
from pipelines.metric_log import read_metrics

KEY_DIGITS = 8
"""Digits of its key in the name of a stage whose label stands for another one."""


@dataclass(frozen=True)
class StageRecord:
    """A finished stage as its directory describes it; `data`: digest of what it read outside."""

    label: str
    kind: str
    key: str
    path: Location
    config: dict[str, Any]
    result: dict[str, Any]
    provenance: dict[str, Any]
    needs: tuple[str, ...]
    data: str = ""

    @property
    def seconds(self) -> float:
        """Time the stage took."""
        return float(self.result.get("seconds", 0.0))

    def series(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """Logged numbers of a train stage: kind of line -> name -> [(step, value)]."""
        found: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for line in read_metrics(self.path):
            group = found.setdefault(str(line["kind"]), {})
            for name, value in line.items():
                if isinstance(value, (int, float)) and name not in ("step", "time", "kind"):
                    group.setdefault(name, []).append((float(line["step"]), float(value)))
        return found


def history(stages: Sequence[Location], labels: Sequence[str] = ()) -> dict[str, StageRecord]:
    """Return the stages at these places and all they were made from, by name, earliest first.

    A stage is named as the one that needs it calls it: its directory may say another label. The
    labels of the given stages and of their inputs come first; a stage further back whose label
    stands for another directory by now has its key in its name.

    Args:
        stages: their directories.
        labels: what they are called; by default as their directories say.
    """
    tree = _Tree()
    tree.grow(stages, labels)
    found: dict[str, StageRecord] = {}
    for name in list(tree.places):
        _collect(name, tree, found)
    return found


class _Tree:
    """Directories of stages with what their inputs are named.

    Attributes:
        places: name -> directory.
        inputs: directory -> what `config.json` of a stage says of it as an input.
        configs: directory -> its `config.json`; those that are gone are missing.
        needs: directory -> names of its inputs.
    """

    def __init__(self) -> None:
        self.places: dict[str, Location] = {}
        self.inputs: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.needs: dict[str, tuple[str, ...]] = {}

    def grow(self, stages: Sequence[Location], labels: Sequence[str]) -> None:
        """Name all directories, those nearest to the given stages first."""
        configs = [self._config(place) for place in stages]
        for place, config, label in zip_longest(stages, configs, labels):
            self._name(label or config["label"], config["key"], place, again=True)
        level, direct = list(stages), True
        while level:
            level = [above for place in level for above in self._expand(place, direct)]
            direct = False

    def _expand(self, place: Location, direct: bool) -> list[Location]:
        """Name the inputs of a directory; return those that are directories of the run."""
        if str(place) in self.needs:
            return []
        names, there = [], []
        for item in self._config(place)["inputs"]:
            above = place.parent / item["dir"]
            self.inputs.setdefault(str(above), item)
            names.append(self._name(item["label"], item["key"], above, again=direct))
            if (above / "config.json").exists():
                there.append(above)
        self.needs[str(place)] = tuple(names)
        return there

    def _name(self, label: str, key: str, place: Location, again: bool) -> str:
        """Return the name of a directory, a new one if it has none, or `again` by its label."""
        own = [name for name, there in self.places.items() if str(there) == str(place)]
        if label in own:
            return label
        if label in self.places or (own and not again):
            label = own[0] if own else f"{label} ({key[:KEY_DIGITS]})"
        self.places.setdefault(label, place)
        return label

    def _config(self, place: Location) -> dict[str, Any]:
        if str(place) not in self.configs:
            self.configs[str(place)] = _read(place / "config.json")
        return self.configs[str(place)]


def _collect(name: str, tree: _Tree, found: dict[str, StageRecord]) -> None:
    """Add a stage after what it was made from."""
    if name in found:
        return
    place = tree.places[name]
    if str(place) not in tree.configs:
        found[name] = _outside(name, tree.inputs[str(place)])
        return
    config, needs = tree.configs[str(place)], tree.needs[str(place)]
    for above in needs:
        _collect(above, tree, found)
    provenance = place / "provenance.json"
    found[name] = StageRecord(
        label=name,
        kind=config["kind"],
        key=config["key"],
        path=place,
        config=config["config"],
        result=_read(place / "result.json"),
        provenance=_read(provenance) if provenance.exists() else {},
        needs=needs,
        data=str(config.get("data", "")),
    )


def _outside(name: str, item: dict[str, Any]) -> StageRecord:
    """Return what is known of an input whose directory is not in the run directory."""
    place = Location.parse(str(item["dir"]))
    return StageRecord(name, item["kind"], item["key"], place, {}, {}, {}, ())


def _read(place: Location) -> dict[str, Any]:
    try:
        content = json.loads(place.read_text())
    except json.JSONDecodeError as error:
        raise StageError(
            f"{place}: not valid JSON ({error}); delete {place.parent} to run that stage again"
        ) from None
    if not isinstance(content, dict):
        raise StageError(f"{place}: not a JSON object; delete {place.parent} to run it again")
    return content
