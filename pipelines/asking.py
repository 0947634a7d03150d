"""What stages that ask trained models about images have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.config import RuntimeOnly
from fsl.images import ShownImages
from pipelines.model import LoadedModel, load_model
from pipelines.stage import PlannedStage, StageConfig, inputs_giving


class AskingConfig(StageConfig):
    """Settings of a stage that asks trained models."""

    which: Literal["best", "last"] = "best"
    """Which checkpoint of each train stage."""
    images: ShownImages | None = None
    """Size of the images that all models are shown; null: each as in its own validation."""
    batch_size: Annotated[int, Field(ge=1, le=65536), RuntimeOnly] = 256
    """Images per forward pass."""
    loader_workers: Annotated[int, Field(ge=0, le=64), RuntimeOnly] = 0
    """Processes that decode, beside each one that computes; 0 decodes there."""

    @property
    def passes(self) -> dict[str, int]:
        """How images pass, as `pipelines.features` takes it."""
        return {"batch_size": self.batch_size, "loader_workers": self.loader_workers}

    def load(self, stage_path: Location) -> LoadedModel:
        """Return the trained method of a train stage as it is asked here."""
        return load_model(stage_path, self.which, self.images)


def written_shards(inputs: Mapping[str, PlannedStage]) -> Iterator[ShardSet]:
    """Yield the needed shards as far as they exist before the recipe runs, for `Stage.check`."""
    for stage in inputs_giving(inputs, "shards"):
        if stage.there is not None:
            yield ShardSet.open(stage.there)
