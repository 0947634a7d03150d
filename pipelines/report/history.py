"""The stages that a result was made from, read from their directories."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from data_shards.location import Location
from fsl.errors import StageError
from pipelines.metric_log import read_metrics


@dataclass(frozen=True)
class StageRecord:
    """A finished stage as its directory describes it."""

    label: str
    kind: str
    key: str
    path: Location
    config: dict[str, Any]
    result: dict[str, Any]
    provenance: dict[str, Any]
    needs: tuple[str, ...]

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


def history(stages: list[Location]) -> dict[str, StageRecord]:
    """Return the stages at these places and all they were made from, by label, earliest first."""
    found: dict[str, StageRecord] = {}
    for place in stages:
        _collect(place, found)
    return found


def _collect(place: Location, found: dict[str, StageRecord], label: str = "") -> None:
    """Add a stage under the label that its user calls it by: its directory may say another."""
    config, result = _read(place / "config.json"), _read(place / "result.json")
    label = label or config["label"]
    if label in found:
        return
    for item in config["inputs"]:
        above = place.parent / item["dir"]
        if (above / "config.json").exists():
            _collect(above, found, item["label"])
        else:  # shards that lie outside the run directory
            found[item["label"]] = _outside(item)
    provenance = place / "provenance.json"
    found[label] = StageRecord(
        label=label,
        kind=config["kind"],
        key=config["key"],
        path=place,
        config=config["config"],
        result=result,
        provenance=_read(provenance) if provenance.exists() else {},
        needs=tuple(item["label"] for item in config["inputs"]),
    )


def _outside(item: dict[str, Any]) -> StageRecord:
    place = Location.parse(str(item["dir"]))
    return StageRecord(item["label"], item["kind"], item["key"], place, {}, {}, {}, ())


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
