"""A finished stage that asked models: where it is, and what its models were made from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from torch import Tensor

from data_shards.location import Location
from fsl.errors import FewShotError, StageError
from pipelines.compare.answers import Answers
from pipelines.compare.asked import Asked
from pipelines.compare.lineage import (
    cpu_minutes,
    is_trained,
    method_digest,
    seed_of,
    trainings_before,
)
from pipelines.report.history import StageRecord


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluate or classify stage.

    Attributes:
        run: the run directory.
        place: the stage's directory.
        label: its name in the recipe.
        stages: what it was made from, by label, itself included.
    """

    run: Location
    place: Location
    label: str
    stages: dict[str, StageRecord]

    def answers(
        self,
        model: str,
        *,
        protocol: str,
        head: Any,
        weights: str,
        bank: Asked,
        accuracies: Tensor,
        way_accuracies: Tensor,
        classes: Tensor,
    ) -> Answers:
        """Return what a model answered, with all that is known of it.

        Args:
            model: its label.
            protocol: how it answered.
            head: settings of the protocol, None when they are not recorded.
            weights: digest of its weights, "" when not recorded.
            bank: what it was asked.
            accuracies: (E,).
            way_accuracies: (E, W).
            classes: (E, W).
        """
        return Answers(
            run=self.run,
            place=self.place,
            evaluation=self.label,
            model=model,
            trained=is_trained(model, self.stages),
            protocol=protocol,
            seed=seed_of(model, self.stages),
            weights=weights,
            method=method_digest(model, self.label, self.stages, head),
            cpu_minutes=cpu_minutes(model, self.stages),
            before=trainings_before(model, self.stages),
            bank=bank,
            accuracies=accuracies,
            way_accuracies=way_accuracies,
            classes=classes,
        )

    @contextmanager
    def damage_explained(self, table: str) -> Iterator[None]:
        """Turn what a cut or edited file of answers raises into one error.

        Raises:
            StageError: names the directory, the reason and the remedy.
        """
        again = f"delete {self.place} and run the recipe again"
        try:
            yield
        except FewShotError as error:
            raise StageError(f"{self.place}: damaged results: {error}; {again}") from None
        except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise StageError(
                f"{self.place}: {table} cannot be read as the answers of an evaluation "
                f"({type(error).__name__}: {reason}); {again}"
            ) from None


def read_json(place: Location) -> dict[str, Any]:
    """Return a JSON object; raises StageError where it is none."""
    try:
        content = json.loads(place.read_text())
    except json.JSONDecodeError as error:
        raise StageError(f"{place}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise StageError(f"{place}: not a JSON object")
    return content
