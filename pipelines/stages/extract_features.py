"""The extract_features stage: a trained model and a shard set -> feature tables.

Heads and methods that learn from vectors (AWGIM) read the tables instead of the images. The parts
that an interrupted attempt wrote are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from tqdm import tqdm

from data_shards.feature_writer import ROWS_PER_PART
from data_shards.features import FeatureSet
from data_shards.location import Location
from fsl.config import RuntimeOnly
from fsl.errors import StageError
from pipelines.asking import AskingConfig, written_shards
from pipelines.extraction import VECTOR, Extraction, ExtractionCluster, Extractor, Part
from pipelines.quiet import prepare_environment
from pipelines.shown_images import check_shown
from pipelines.stage import (
    ONE,
    STAGES,
    Count,
    PlannedStage,
    Stage,
    StageResult,
    inputs_giving,
)


class ExtractFeaturesConfig(AskingConfig):
    """Settings of `ExtractFeatures`."""

    kind: Literal["extract_features"] = "extract_features"
    splits: Annotated[list[str], Field(min_length=1)] | None = None
    """Splits of the shard set; null takes all."""
    cluster: Annotated[ExtractionCluster, RuntimeOnly] = ExtractionCluster()
    """Processes that compute, and their resources."""

    @field_validator("splits")
    @classmethod
    def _named_once(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("name each split once")
        return value


@STAGES.register("extract_features")
class ExtractFeatures(Stage[ExtractFeaturesConfig]):
    """Writes what `Method.embed` returns for every image, in the order of the shard set."""

    Config = ExtractFeaturesConfig
    gives = "features"
    takes: ClassVar[Mapping[str, Count]] = {"shards": ONE, "model": ONE}

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Refuse a model of feature vectors, and splits that the shards lack once they exist."""
        for model in inputs_giving(inputs, "model"):
            if inputs_giving(model.inputs, "features"):
                raise StageError(
                    f"needs: {model.label!r} is trained on feature vectors and takes no images; "
                    "name the stage that trains the network"
                )
        check_shown(self.config.images, inputs)
        for shard_set in written_shards(inputs):
            for name in self.config.splits or []:
                shard_set.split(name)

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Write the parts that are missing."""
        begun = time.perf_counter()
        (model,), (shards,) = (inputs_giving(inputs, gives) for gives in ("model", "shards"))
        job = Extraction(
            model=model.path,
            which=self.config.which,
            shown=self.config.images,
            data=shards.path,
            splits=None if self.config.splits is None else tuple(self.config.splits),
            out=out,
            batch_size=self.config.batch_size,
            loader_workers=self.config.loader_workers,
            source={"model": model.label, "which": self.config.which},
            rows_per_part=ROWS_PER_PART,
        )
        cluster = self.config.cluster
        extractor = Extractor(job, _device(cluster.gpu) if cluster.workers == 1 else "cpu")
        parts = extractor.missing()
        images = sum(part.rows for part in parts)
        with tqdm(total=images, desc="features", unit="image", disable=None, leave=False) as bar:
            if parts and cluster.workers > 1:
                _write_on_ray(job, parts, cluster, bar.update)
            else:
                for part in parts:
                    extractor.write(part, bar.update)
        tables = FeatureSet.open(out)
        numbers = {"images": float(len(tables)), "dimensions": float(tables.widths[VECTOR])}
        if parts:
            numbers["images_per_second"] = images / (time.perf_counter() - begun)
        return numbers


def _write_on_ray(
    job: Extraction,
    parts: Sequence[Part],
    cluster: ExtractionCluster,
    on_images: Callable[[int], object],
) -> None:
    prepare_environment()  # Ray reads it when it is imported
    from pipelines.ray_extract import extract_on_ray  # noqa: PLC0415 - Ray is slow to import

    extract_on_ray(job, parts, cluster, on_images)


def _device(gpu: bool | Literal["auto"]) -> str:
    """Return where this process computes."""
    there = torch.cuda.is_available()
    if gpu is True and not there:
        raise StageError(
            "cluster.gpu: true, but this machine has no usable GPU; set it to auto, or "
            "cluster.workers above 1 to compute on the nodes of a Ray cluster"
        )
    return "cuda" if there and gpu else "cpu"
