"""What is compared: the answers of one model, under one protocol, to what all were asked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_shards.location import Location
from fsl.errors import ConfigError, did_you_mean
from pipelines.compare.asked import Asked, Bank
from pipelines.protocols import OWN

PROTOTYPE = "prototype"


@dataclass(frozen=True)
class Answers:
    """One model's accuracy on each episode of a bank, or on each image.

    Attributes:
        run: directory of the run.
        place: directory of the evaluate or classify stage.
        evaluation: label of that stage.
        model: label of the stage that made it, or name of a baseline.
        trained: whether training is behind it; a baseline has no seed.
        protocol: how the queries were answered.
        seed: what the model was trained with, if recorded.
        weights: digest of its weights, "" when not recorded.
        method: identity of model and evaluation settings but for the seeds.
        cpu_minutes: training time of the model with all it was made from, if recorded.
        before: the trainings that the model was made from, by key.
        bank: the episodes, or images: each is asked once and has one way, its class.
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
    bank: Asked
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
            "ways": (self.ways, {bank.ways for bank in _banks(answers)}),
            "shots": (self.shots, {bank.shots for bank in _banks(answers)}),
            "labels": (self.labels, {item.model for item in answers}),
            "protocol": (self.protocols, {item.protocol for item in answers}),
        }
        for option, (asked, there) in known.items():
            for value in asked:
                if value not in there:
                    near = did_you_mean(str(value), map(str, there))
                    listed = ", ".join(str(item) for item in sorted(there)) or "none"
                    raise ConfigError(f"--{option}: nothing has {value!r}{near}; there is {listed}")
        chosen = [item for item in answers if self._wants(item)]
        if not chosen:
            raise ConfigError("nothing has all that --ways, --shots, --labels and --protocol ask")
        return chosen

    def _wants(self, item: Answers) -> bool:
        return (
            self._wants_bank(item.bank)
            and (not self.labels or item.model in self.labels)
            and (not self.protocols or item.protocol in self.protocols)
        )

    def _wants_bank(self, bank: Asked) -> bool:
        if not isinstance(bank, Bank):
            return not self.ways and not self.shots
        return (not self.ways or bank.ways in self.ways) and (
            not self.shots or bank.shots in self.shots
        )


def _banks(answers: Sequence[Answers]) -> list[Bank]:
    return [item.bank for item in answers if isinstance(item.bank, Bank)]


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
