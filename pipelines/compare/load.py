"""Finds the finished evaluate and classify stages that a path stands for, and reads them.

A path is a run directory, as `fewshot run` leaves it, or the directory of one such stage. A run
directory that was used for several seeds holds several stages of one label: those of the newest
settings are taken, with all their seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from data_shards.location import Location
from fsl.errors import StageError
from pipelines.compare.answers import Answers
from pipelines.compare.episode_answers import episode_answers
from pipelines.compare.evaluation import Evaluation, read_json
from pipelines.compare.image_answers import image_answers
from pipelines.compare.lineage import settings_digest
from pipelines.records import RESULT
from pipelines.report.history import history

CONFIG = "config.json"
READERS: Mapping[str, Callable[[Evaluation], list[Answers]]] = {
    "evaluate": episode_answers,
    "classify": image_answers,
}
"""Kind of stage -> what reads its answers."""


@dataclass(frozen=True)
class Found:
    """A finished stage before its numbers are read."""

    place: Location
    label: str
    finished: str
    settings: str


def load(path: Location) -> tuple[list[Answers], list[str]]:
    """Return the answers that a path stands for, and notes on what was left out.

    Raises:
        StageError: no such directory, not a run, no finished evaluation, damaged files.
    """
    if not path.is_dir():
        raise StageError(
            f"{path}: no such directory; name a run (runs/NAME) or the directory of an evaluate "
            "or classify stage in it"
        )
    if (path / CONFIG).exists():
        return _answers(path, path.parent), []
    chosen, notes = _newest(path, _finished(path))
    return [item for found in chosen for item in _answers(found.place, path)], notes


def _finished(run: Location) -> list[Found]:
    """Return the finished evaluate and classify stages of a run directory."""
    stages = [place for place in run.list() if place.is_dir() and (place / CONFIG).exists()]
    if not stages:
        raise StageError(f"{run}: not a run directory: it holds no stage; name runs/NAME")
    configs = {place: read_json(place / CONFIG) for place in stages}
    evaluations = [place for place, config in configs.items() if config.get("kind") in READERS]
    finished = [place for place in evaluations if (place / RESULT).exists()]
    if not finished:
        began = ", ".join(place.name for place in evaluations)
        has = f"{began} was begun and not finished" if began else "none was begun"
        raise StageError(
            f"{run}: no finished evaluate or classify stage: {has}; run its recipe to the end: "
            "fewshot run"
        )
    found = []
    for place in finished:
        when = str(read_json(place / RESULT).get("finished", ""))
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


def _answers(place: Location, run: Location) -> list[Answers]:
    config = read_json(place / CONFIG)
    kind = str(config.get("kind"))
    if kind not in READERS:
        raise StageError(
            f"{place}: a stage of kind {kind!r}, not {' or '.join(READERS)}; name the run "
            f"directory {run}, or such a stage in it"
        )
    if not (place / RESULT).exists():
        raise StageError(
            f"{place}: this {kind} stage was begun and not finished; run its recipe to the end: "
            "fewshot run"
        )
    evaluation = Evaluation(run, place, str(config["label"]), history([place]))
    return READERS[kind](evaluation)
