"""What an evaluation needs, looked at before anything runs.

Only labels, keys and settings of the planned stages are read: what they make need not be there.
"""

from __future__ import annotations

from collections.abc import Mapping

from fsl.errors import StageError
from pipelines.asking import AskingConfig
from pipelines.stage import PlannedStage, inputs_giving

Planned = Mapping[str, PlannedStage]


def check_sources(inputs: Planned) -> None:
    """Refuse models whose images are not needed, or vectors: those of their own network."""
    tables = inputs_giving(inputs, "features")
    for model in inputs_giving(inputs, "model"):
        vectors = inputs_giving(model.inputs, "features")
        if not vectors and not inputs_giving(inputs, "shards"):
            raise StageError(
                f"needs: {model.label!r} is trained on images; list the stage that gives the shards"
            )
        for own in vectors:
            if not tables:
                raise StageError(
                    f"needs: {model.label!r} is trained on the vectors of {own.label!r}; list "
                    f"{own.label} too"
                )
            if _maker(own) != _maker(tables[0]):
                raise StageError(
                    f"needs: {model.label!r} is trained on the vectors of {own.label!r}, those of "
                    f"{tables[0].label!r} are made by another network or checkpoint; evaluate it "
                    f"in a stage of its own, with needs: [{own.label}, {model.label}]"
                )


def _maker(table: PlannedStage) -> tuple[str, ...]:
    """Return what made the vectors, whatever the images: network and checkpoint, or the table."""
    networks = inputs_giving(table.inputs, "model")
    if not networks or not isinstance(table.config, AskingConfig):
        return (table.key,)
    return (*(network.key for network in networks), table.config.which)
