"""Feature tables of a trained model, part by part: what each process of an extraction does.

The rows of a part and the batches it is computed in depend on the settings alone, so whoever
computes it writes the same file.

Letters in shapes: n rows of a part, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from data_shards.feature_parts import FeatureMeta
from data_shards.feature_writer import ROWS_PER_PART, PartWriter
from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.backbones.features import FeaturesConfig
from fsl.config import Section
from fsl.errors import StageError
from fsl.images import ShownImages
from pipelines.checkpoint import Which
from pipelines.features import computed, image_batches
from pipelines.image_store import ImageStore
from pipelines.model import LoadedModel, load_model

VECTOR = "feature"


class ExtractionCluster(Section):
    """What an extraction asks of the machine or cluster."""

    workers: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Processes: 1 computes here, more are started by Ray, as far as its cluster has room."""
    gpu: Literal["auto"] | bool = "auto"
    """One GPU per process; `auto` when there is any now."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPUs that Ray reserves per process; without a GPU also its torch threads."""


@dataclass(frozen=True)
class Extraction:
    """What every process of an extraction is told.

    Attributes:
        model: directory of a finished train stage.
        which: which of its checkpoints.
        shown: size of the images; None: as the model was validated.
        data: the shard set.
        splits: names of the splits; None takes all.
        out: directory of the tables.
        batch_size: images per forward pass.
        loader_workers: processes that decode; 0 decodes in the process that computes.
        source: notes for people, kept in the tables.
        rows_per_part: rows of every part but a split's last.
    """

    model: Location
    which: Which
    data: Location
    splits: tuple[str, ...] | None
    out: Location
    batch_size: int
    loader_workers: int = 0
    source: Mapping[str, Any] = field(default_factory=dict)
    shown: ShownImages | None = None
    rows_per_part: int = ROWS_PER_PART


class Part(NamedTuple):
    """A part of one split's table, and how many rows it has."""

    split: str
    number: int
    rows: int


def ignore(images: int) -> None:
    """Do nothing: the watcher of an extraction that nobody watches."""
    del images


class Extractor:
    """Computes and writes parts. Model and data are opened when first needed.

    Args:
        job: what is extracted.
        device: where the network runs, "cpu" or "cuda".
        threads: torch threads; None leaves them as they are.
    """

    def __init__(self, job: Extraction, device: str = "cpu", threads: int | None = None) -> None:
        self.job, self.device = job, torch.device(device)
        self._stores: dict[str, ImageStore] = {}
        if threads is not None:
            torch.set_num_threads(threads)

    def missing(self) -> list[Part]:
        """Return the parts that are still to be written; loads model and index."""
        return [
            Part(name, number, len(writer.rows(number)))
            for name, writer in self._writers.items()
            for number in writer.missing()
        ]

    def prepare(self) -> int:
        """Load model and index, so that the first part need not wait; return rows written, 0."""
        self._method()
        return 0

    def write(self, part: Part, on_images: Callable[[int], object] = ignore) -> int:
        """Compute and write one part; return its number of rows.

        Args:
            part: which.
            on_images: called with the number of images after each batch.
        """
        writer = self._writers[part.split]
        batches = image_batches(
            self._store(part.split),
            writer.rows(part.number),
            self._model.images,
            self.job.batch_size,
            self.job.loader_workers,
        )
        vectors = computed(self._method().embed, _counted(batches, on_images), self.device)
        writer.write(part.number, {VECTOR: vectors.numpy()})  # (n, D)
        return part.rows

    @cached_property
    def _model(self) -> LoadedModel:
        model = load_model(self.job.model, self.job.which, self.job.shown)
        if isinstance(model.config.backbone, FeaturesConfig):
            raise StageError(
                f"{self.job.model}: this model was trained on feature vectors and takes no images; "
                "name the stage that trained the network they were computed with"
            )
        return model

    def _method(self) -> Any:
        return self._model.method.to(self.device).eval()

    @cached_property
    def _data(self) -> ShardSet:
        return ShardSet.open(self.job.data)

    @cached_property
    def _writers(self) -> dict[str, PartWriter]:
        meta = FeatureMeta(
            data=self._data.digest,
            weights=self._model.digest,
            preparation=self._model.images.model_dump(mode="json"),
            source=self.job.source,
        )
        names = self._data.splits if self.job.splits is None else self.job.splits
        return {
            name: PartWriter(self.job.out, self._data.split(name), meta, self.job.rows_per_part)
            for name in names
        }

    def _store(self, split: str) -> ImageStore:
        if split not in self._stores:
            self._stores[split] = ImageStore(self._data.split(split), self._model.images.mode)
        return self._stores[split]


def _counted(batches: Iterable[Tensor], on_images: Callable[[int], object]) -> Iterator[Tensor]:
    """Yield the batches, telling the size of each when it was worked off."""
    for images in batches:
        yield images
        on_images(len(images))
