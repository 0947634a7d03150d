"""What planned stages come from: the trainings behind them, their settings, and the images.

Only labels, keys and settings are read: what the stages make need not be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pipelines.resolve import resolved
from pipelines.stage import PlannedStage, inputs_giving
from pipelines.train_config import TrainConfig

Planned = Mapping[str, PlannedStage]


def trainings(inputs: Planned) -> Iterator[PlannedStage]:
    """Yield the train stages behind some inputs, themselves included, each once."""
    seen: set[str] = set()
    waiting = list(inputs.values())
    while waiting:
        stage = waiting.pop(0)
        if stage.key not in seen:
            seen.add(stage.key)
            waiting += stage.inputs.values()
            if isinstance(stage.config, TrainConfig):
                yield stage


def image_sources(inputs: Planned) -> set[str]:
    """Return the keys of the shard sets among the inputs or behind their feature tables.

    A table of which that is not known stands for its own images.
    """
    keys = {shards.key for shards in inputs_giving(inputs, "shards")}
    for table in inputs_giving(inputs, "features"):
        keys |= image_sources(table.inputs) or {table.key}
    return keys


def planned_models(inputs: Planned) -> Iterator[tuple[str, TrainConfig]]:
    """Yield label and `resolved` settings of the train stages among some inputs.

    Of a model that another kind of stage makes nothing is known.
    """
    for model in inputs_giving(inputs, "model"):
        if isinstance(model.config, TrainConfig):
            earlier = next(planned_models(model.inputs), None)
            features = bool(inputs_giving(model.inputs, "features"))
            yield model.label, resolved(model.config, earlier and earlier[1], features)
