"""The import_features stage: embeddings that others published -> feature tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data_shards.leo import FILES, find_leo, import_leo
from data_shards.location import Location
from fsl.config import RuntimeOnly, digest
from fsl.errors import ConfigError
from pipelines.stage import STAGES, PlannedStage, Stage, StageConfig, StageResult

BLOCK = 1 << 20
Place = Annotated[str, Field(min_length=1)]


class ImportFeaturesConfig(StageConfig):
    """Settings of `ImportFeatures`. The content of the files enters the key, their place does not.

    Relative paths start where the command is run.
    """

    kind: Literal["import_features"] = "import_features"
    leo: Annotated[Place, RuntimeOnly] | None = None
    """Folder or URI with LEO's train_, val_ and test_embeddings.pkl; those that are there become
    base, val and novel."""
    files: (
        Annotated[dict[Literal["base", "val", "novel"], Place], Field(min_length=1), RuntimeOnly]
        | None
    ) = None
    """Or the pickle of each split, in LEO's layout or as one array (classes, images, features)."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.leo is None) == (self.files is None):
            raise ValueError(
                "give either leo: FOLDER or files: {base: PATH, val: PATH, novel: PATH}"
            )
        return self


@STAGES.register("import_features")
class ImportFeatures(Stage[ImportFeaturesConfig]):
    """Writes feature tables of pickled embeddings; nothing in a pickle is run."""

    Config = ImportFeaturesConfig
    version = 2
    gives = "features"

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Refuse files that are not there."""
        del inputs
        self._files()

    def data_digest(self) -> str:
        """Return a digest of the content of each split's file."""
        return digest({split: _sha256(place) for split, place in self._files().items()})

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Write the tables."""
        tables = import_leo(self._files(), out)
        (width,) = tables.widths.values()
        classes = sum(len(names) for names in tables.class_names.values())
        return {
            "images": float(len(tables)),
            "classes": float(classes),
            "dimensions": float(width),
        }

    def _files(self) -> dict[str, Location]:
        """Return the file of each split, in a fixed order."""
        if self.config.leo is not None:
            return find_leo(Location.parse(self.config.leo))
        assert self.config.files is not None
        found: dict[str, Location] = {}
        for split in (name for name in FILES if name in self.config.files):
            found[split] = Location.parse(self.config.files[split])
            if not found[split].exists() or found[split].is_dir():
                raise ConfigError(f"files.{split}: {found[split]}: there is no such file")
        return found


def _sha256(place: Location) -> str:
    total = hashlib.sha256()
    with place.open_input() as stream:
        while block := stream.read(BLOCK):
            total.update(block)
    return total.hexdigest()
