"""What is compared: the answers of one model, under one protocol, to one sealed bank."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_shards.location import Location
from fsl.errors import ConfigError, did_you_mean
from pipelines.compare.lineage import (
    cpu_minutes,
    is_trained,
    method_digest,
    seed_of,
    trainings_before,
)
from pipelines.compare.load import Evaluation
from pipelines.protocols import OWN

PROTOTYPE = "prototype"


@dataclass(frozen=True)
class Bank:
    """Which episodes were asked. Equal digests mean the same images in the same places."""

    digest: str
    ways: int
    shots: int
    split: str
    data: str
    tasks: int
    queries: int | str
    seed: int

    def __str__(self) -> str:
        return f"{self.ways}-way {self.shots}-shot"


@dataclass(frozen=True)
class Answers:
    """One model's accuracy on each episode of a bank.

    Attributes:
        run: directory of the run.
        place: directory of the evaluate stage.
        evaluation: label of the evaluate stage.
        model: label of the stage that made it, or name of a baseline.
        trained: whether training is behind it; a baseline has no seed.
        protocol: how the queries were answered.
        seed: what the model was trained with, if recorded.
        weights: digest of its weights, "" when not recorded.
        method: identity of model and evaluation settings but for the seeds.
        cpu_minutes: training time of the model with all it was made from, if recorded.
        before: the trainings that the model was made from, by key.
        bank: the episodes.
        accuracies: (E,) float64.
        way_accuracies: (E, W) float64, of the queries of each way.
        classes: (E, W) class numbers.
    """

    run: Location
    place: Location
    evaluation: str
    model: str
    trained: bool
    protocol: str
    seed: int | None
    weights: str
    method: str
    cpu_minutes: float | None
    before: frozenset[str]
    bank: Bank
    accuracies: Tensor
    way_accuracies: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Wanted:
    """What to compare; an empty collection leaves nothing out."""

    ways: Collection[int] = ()
    shots: Collection[int] = ()
    labels: Collection[str] = ()
    protocols: Collection[str] = ()

    def choose(self, answers: Sequence[Answers]) -> list[Answers]:
        """Return what is wanted.

        Raises:
            ConfigError: an option names what no evaluation has, or nothing is left.
        """
        known: dict[str, tuple[Collection[Any], set[Any]]] = {
            "ways": (self.ways, {item.bank.ways for item in answers}),
            "shots": (self.shots, {item.bank.shots for item in answers}),
            "labels": (self.labels, {item.model for item in answers}),
            "protocol": (self.protocols, {item.protocol for item in answers}),
        }
        for option, (asked, there) in known.items():
            for value in asked:
                if value not in there:
                    near = did_you_mean(str(value), map(str, there))
                    listed = ", ".join(str(item) for item in sorted(there))
                    raise ConfigError(f"--{option}: nothing has {value!r}{near}; there is {listed}")
        chosen = [item for item in answers if self._wants(item)]
        if not chosen:
            raise ConfigError("nothing has all that --ways, --shots, --labels and --protocol ask")
        return chosen

    def _wants(self, item: Answers) -> bool:
        return (
            (not self.ways or item.bank.ways in self.ways)
            and (not self.shots or item.bank.shots in self.shots)
            and (not self.labels or item.model in self.labels)
            and (not self.protocols or item.protocol in self.protocols)
        )


def answers_of(evaluation: Evaluation) -> Iterator[Answers]:
    """Yield what an evaluation holds, in its order."""
    summary, stages = evaluation.summary, evaluation.stages
    banks = {(entry["ways"], entry["shots"]): _bank(summary, entry) for entry in summary["banks"]}
    weights = {entry["label"]: str(entry.get("weights", "")) for entry in summary["models"]}
    heads = _heads(evaluation)
    for item in evaluation.scored:
        setting, model = item.setting, item.model
        yield Answers(
            run=evaluation.run,
            place=evaluation.place,
            evaluation=evaluation.label,
            model=model,
            trained=is_trained(model, stages),
            protocol=setting.protocol,
            seed=seed_of(model, stages),
            weights=weights.get(model, ""),
            method=method_digest(model, evaluation.label, stages, heads.get(setting.protocol)),
            cpu_minutes=cpu_minutes(model, stages),
            before=trainings_before(model, stages),
            bank=banks[setting.ways, setting.shots],
            accuracies=item.scores.accuracies,
            way_accuracies=item.scores.way_accuracies,
            classes=item.classes,
        )


def without_eliminated(answers: Sequence[Answers]) -> tuple[list[Answers], list[str]]:
    """Return those who answered their whole bank, and notes on those whom a race stopped before."""
    kept = [item for item in answers if len(item.accuracies) == item.bank.tasks]
    stopped: dict[tuple[Location, str], list[str]] = {}
    for item in answers:
        if len(item.accuracies) < item.bank.tasks:
            names = stopped.setdefault((item.place, str(item.bank)), [])
            names.append(f"{item.model} ({item.protocol})")
    notes = [
        f"{place}, {bank}: left out, dropped by the race before its end: {', '.join(names)}."
        for (place, bank), names in stopped.items()
    ]
    return kept, notes


def without_repeats(answers: Sequence[Answers]) -> tuple[list[Answers], list[str]]:
    """Return each model once on each bank, and notes on trained models that came twice.

    A model comes again when a run is named twice, or as a baseline of several runs; and as
    `prototype` when that is what the method itself does. Of equal weights that answer otherwise,
    as on another kind of machine, the first answers count: they are not another training.
    """
    answers = _without_twins(answers)
    kept: dict[tuple[str, ...], Answers] = {}
    again: dict[str, None] = {}
    for item in answers:
        name = item.weights or str(item.place)
        key = (item.method, item.protocol, name, item.bank.digest)
        first = kept.setdefault(key, item)
        if first is item:
            continue
        if item.trained and item.place != first.place:
            other = not torch.equal(first.way_accuracies, item.way_accuracies)
            left = f", answers {_most_apart(first, item):.2g} points apart; left out" * other
            again[f"{item.place}: {item.model} is the same model as in {first.place}{left}."] = None
    return list(kept.values()), list(again)


def _most_apart(one: Answers, other: Answers) -> float:
    """Return the difference between two means in points."""
    return 100 * abs(float(one.accuracies.mean() - other.accuracies.mean()))


def _without_twins(answers: Sequence[Answers]) -> list[Answers]:
    """Leave out `prototype` where it answers every bank in the very way of the method itself."""
    own = {
        (item.place, item.model, item.bank): item.way_accuracies
        for item in answers
        if item.protocol == OWN
    }
    other = {
        (item.place, item.model)
        for item in answers
        if item.protocol == PROTOTYPE
        and (
            (same := own.get((item.place, item.model, item.bank))) is None
            or not torch.equal(same, item.way_accuracies)
        )
    }
    return [
        item for item in answers if item.protocol != PROTOTYPE or (item.place, item.model) in other
    ]


def _heads(evaluation: Evaluation) -> dict[str, Any]:
    """Return the settings of each protocol: two with one name may answer differently."""
    names = dict.fromkeys(item.setting.protocol for item in evaluation.scored)
    settings = evaluation.summary.get("protocols", [])  # in the order in which models are scored
    return dict(zip(names, settings, strict=True)) if len(names) == len(settings) else {}


def _bank(summary: Mapping[str, Any], entry: Mapping[str, Any]) -> Bank:
    digest = str(entry["file"]).removeprefix("bank-").removesuffix(".parquet")
    return Bank(
        digest,
        entry["ways"],
        entry["shots"],
        summary["split"],
        summary["data"],
        summary["tasks"],
        summary["queries"],
        summary["seed"],
    )
