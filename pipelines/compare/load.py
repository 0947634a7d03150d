"""Finds the finished evaluate stages that a path stands for, and reads them.

A path is a run directory, as `fewshot run` leaves it, or the directory of one evaluate stage. A
run directory that was used for several seeds holds several evaluate stages of one label: those of
the newest settings are taken, with all their seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from data_shards.location import Location
from fsl.errors import FewShotError, StageError
from pipelines.accuracies import SUMMARY, TABLE, Scored, read_summary, read_table
from pipelines.compare.lineage import settings_digest
from pipelines.records import RESULT
from pipelines.report.history import StageRecord, history

CONFIG = "config.json"


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluate stage.

    Attributes:
        run: the run directory.
        place: the stage's directory.
        label: its name in the recipe.
        summary: its `summary.json`.
        scored: its `accuracies.parquet`.
        stages: what it was made from, by label, itself included.
    """

    run: Location
    place: Location
    label: str
    summary: Mapping[str, Any]
    scored: Sequence[Scored]
    stages: Mapping[str, StageRecord]


@dataclass(frozen=True)
class Found:
    """A finished evaluate stage before its numbers are read."""

    place: Location
    label: str
    finished: str
    settings: str


def load(path: Location) -> tuple[list[Evaluation], list[str]]:
    """Return the evaluations that a path stands for, and notes on what was left out.

    Raises:
        StageError: no such directory, not a run, no finished evaluate stage, damaged files.
    """
    if not path.is_dir():
        raise StageError(
            f"{path}: no such directory; name a run (runs/NAME) or the directory of an evaluate "
            "stage in it"
        )
    if (path / CONFIG).exists():
        return [_evaluation(path, path.parent)], []
    chosen, notes = _newest(path, _finished(path))
    return [_evaluation(found.place, path) for found in chosen], notes


def _finished(run: Location) -> list[Found]:
    """Return the finished evaluate stages of a run directory."""
    stages = [place for place in run.list() if place.is_dir() and (place / CONFIG).exists()]
    if not stages:
        raise StageError(f"{run}: not a run directory: it holds no stage; name runs/NAME")
    configs = {place: _read(place / CONFIG) for place in stages}
    evaluations = [place for place, config in configs.items() if config.get("kind") == "evaluate"]
    finished = [place for place in evaluations if (place / RESULT).exists()]
    if not finished:
        began = ", ".join(place.name for place in evaluations)
        has = f"{began} was begun and not finished" if began else "no evaluate stage was begun"
        raise StageError(
            f"{run}: no finished evaluate stage: {has}; run its recipe to the end: fewshot run"
        )
    found = []
    for place in finished:
        when = str(_read(place / RESULT).get("finished", ""))
        record = history([place])
        label = str(configs[place]["label"])
        found.append(Found(place, label, when, settings_digest(label, record)))
    return found


def _newest(run: Location, found: Sequence[Found]) -> tuple[list[Found], list[str]]:
    """Return for each label the evaluations with the newest settings, and what was left out."""
    chosen, notes = [], []
    for label in dict.fromkeys(item.label for item in found):
        same = [item for item in found if item.label == label]
        newest = max(same, key=lambda item: item.finished)
        chosen += [item for item in same if item.settings == newest.settings]
        older = [item.place.name for item in same if item.settings != newest.settings]
        if older:
            notes.append(
                f"{run}: {newest.place.name} is the newest {label}; left out with other settings: "
                f"{', '.join(older)} (name such a directory itself to compare it)."
            )
    return chosen, notes


def _evaluation(place: Location, run: Location) -> Evaluation:
    config = _read(place / CONFIG)
    if config.get("kind") != "evaluate":
        raise StageError(
            f"{place}: a stage of kind {config.get('kind')!r}, not evaluate; name the run "
            f"directory {run} or an evaluate stage in it"
        )
    if not (place / RESULT).exists():
        raise StageError(
            f"{place}: this evaluate stage was begun and not finished; run its recipe to the end: "
            "fewshot run"
        )
    again = f"delete {place} and run the recipe again"
    summary = read_summary(place)
    try:
        scored = read_table(place)
        _check(summary, scored)
    except FewShotError as error:
        raise StageError(f"{place}: damaged results: {error}; {again}") from None
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StageError(
            f"{place}: {TABLE} cannot be read as the answers of an evaluation "
            f"({type(error).__name__}: {reason}); {again}"
        ) from None
    label = str(config["label"])
    return Evaluation(run, place, label, summary, scored, history([place]))


def _check(summary: Mapping[str, Any], scored: Sequence[Scored]) -> None:
    """Refuse a table that is not the one the summary was made from, or without its banks."""
    banks = {(entry["ways"], entry["shots"]) for entry in summary["banks"]}
    told = {
        (entry["model"], entry["protocol"], entry["ways"], entry["shots"]): entry["mean"]
        for entry in summary["results"]
    }
    for item in scored:
        setting = item.setting
        mean = told.get((item.model, setting.protocol, setting.ways, setting.shots))
        if mean is None or abs(mean - item.mean.mean) > 1e-9:
            raise StageError(
                f"{SUMMARY} says {mean} for {item.model}, {setting}, {TABLE} gives {item.mean.mean}"
            )
        if (setting.ways, setting.shots) not in banks:
            raise StageError(f"{SUMMARY} names no bank of {setting.ways}-way {setting.shots}-shot")


def _read(place: Location) -> dict[str, Any]:
    try:
        content = json.loads(place.read_text())
    except json.JSONDecodeError as error:
        raise StageError(f"{place}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise StageError(f"{place}: not a JSON object")
    return content
