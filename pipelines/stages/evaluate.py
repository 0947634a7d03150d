"""The evaluate stage: few-shot accuracy of models on classes none of them has seen.

All models answer the same sealed episodes, so differences between them are paired. Features are
computed once per checkpoint; after that an episode costs microseconds. With `race`, those that
cannot be the best stop early (`pipelines.racing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from tqdm import tqdm

from data_shards.episodes import EpisodeBank
from data_shards.features import FeatureSet
from data_shards.labelled_rows import LabelledRows
from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.backbones.features import FeaturesConfig
from fsl.episode_heads import PrototypeConfig
from fsl.errors import ConfigError, StageError
from fsl.images import ImageSpec
from pipelines.accuracies import (
    Scored,
    Setting,
    differences,
    flat_metrics,
    result_entry,
    write_summary,
    write_table,
)
from pipelines.asking import AskingConfig
from pipelines.candidates import Candidate, Model, Pixels, Vectors
from pipelines.competitors import Questions, competitors, on_named_rows
from pipelines.evaluation_inputs import check_base, check_centred, check_sources, check_unseen
from pipelines.features import Part
from pipelines.model import LoadedModel
from pipelines.protocols import AnyProtocol
from pipelines.racing import RaceConfig, check_competitors, race_banks
from pipelines.shown_images import check_shown
from pipelines.stage import (
    ANY,
    OPTIONAL,
    STAGES,
    Count,
    PlannedStage,
    Stage,
    StageResult,
    inputs_giving,
)
from pipelines.training_data import Data, open_data

BANKS, FEATURES = "banks", "features"


class EvaluateConfig(AskingConfig):
    """Settings of an evaluate stage."""

    kind: Literal["evaluate"] = "evaluate"
    split: str = "novel"
    """Split whose classes are recognised; refused if a needed model, or one that it starts from, is
    trained on it. `val`, to choose between models; `novel`, to say how good the chosen one is."""
    ways: (
        Annotated[int, Field(ge=2)]
        | Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)]
    ) = 5
    """Classes per episode; a list evaluates each."""
    shots: list[Annotated[int, Field(ge=1)]] = Field(default=[1, 5], min_length=1)
    """Labelled images per class; each is evaluated."""
    queries: Annotated[int, Field(ge=1)] | Literal["all"] = 15
    """Images per class to recognise. `all`: all that remain, up to 600 (the paper's protocol)."""
    tasks: Annotated[int, Field(ge=2, le=1_000_000)] = 2000
    """Episodes; the paper has 10000."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of the episodes; null: the recipe's."""
    protocols: list[AnyProtocol] = Field(default=[PrototypeConfig()], min_length=1)
    """Who answers: `method` is the method's own classifier; others fit a head to each support set:
    `prototype` (nearest class mean by cosine), `nearest_mean`, `ridge`, `logistic`, `classifier`;
    a name, or a mapping with the head's settings."""
    baselines: list[Literal["pixels"]] = Field(default=[])
    """What learnt nothing, for comparison: `pixels` takes small pictures for features."""
    race: RaceConfig | None = None
    """Models under protocols compete: who cannot be the best of a bank any more answers no further
    episodes. `{}`: with the default settings; null: all answer everything."""

    @field_validator("shots", "protocols", "ways", "baselines")
    @classmethod
    def _named_once(cls, value: Any) -> Any:
        if isinstance(value, list) and any(value.count(entry) > 1 for entry in value):
            raise ValueError("name each entry once")
        return value

    @property
    def all_ways(self) -> list[int]:
        """Each number of ways."""
        return [self.ways] if isinstance(self.ways, int) else self.ways

    @property
    def queries_per_way(self) -> int | None:
        """Queries per way, None for all that remain."""
        return None if self.queries == "all" else self.queries


@STAGES.register("evaluate")
class EvaluateStage(Stage[EvaluateConfig]):
    """Scores every needed model, and the baselines, on the same episodes."""

    Config = EvaluateConfig
    version = 2
    gives = "accuracies"
    takes: ClassVar[Mapping[str, Count]] = {"shards": OPTIONAL, "features": OPTIONAL, "model": ANY}

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Find impossible settings; those about the data once the shards exist."""
        models = inputs_giving(inputs, "model")
        shards, features = inputs_giving(inputs, "shards"), inputs_giving(inputs, "features")
        if not models and not self.config.baselines and not features:
            raise StageError(
                "nothing to evaluate: list a train stage in needs, or set baselines: [pixels]"
            )
        if not shards and not features:
            raise StageError("needs: list the stage that gives the shards, or the features")
        if self.config.baselines and not shards:
            raise StageError("baselines: pixels needs images; list the stage that gives the shards")
        if self.config.race is not None:
            contenders = len(models) + len(features) + len(self.config.baselines)
            check_competitors(contenders, len(self.config.protocols))
        for stage in [*models, *features]:
            if stage.label in self.config.baselines:
                raise StageError(
                    f"needs: a {stage.config.kind} stage is called {stage.label!r} like a "
                    "baseline; rename it"
                )
        check_sources(inputs)
        check_shown(self.config.images, inputs)
        check_unseen(self.config.split, inputs)
        check_centred(self.config.protocols, inputs)
        for source in [*shards, *features]:
            if source.there is not None:
                check_data(self.config, open_data(source.there, source.gives == "features"))

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Compute features, answer the episodes, write table and summary."""
        data = [open_data(source.path, source.gives == "features") for source in _sources(inputs)]
        split = data[0].split(self.config.split)
        for source in data:
            check_data(self.config, source)
            _same_images(split, source.split(self.config.split))
        banks = seal_banks(self.config, split)
        places = {name: bank.save(out / BANKS).name for name, bank in banks.items()}
        rows, questions = on_named_rows(
            {name: Questions.of(bank, split) for name, bank in banks.items()}
        )
        candidates = self._candidates(inputs, data, rows, out / FEATURES)
        scored, digests, races = self._scored(candidates, questions)
        complete = [item for item in scored if len(item.classes) == self.config.tasks]
        summary: dict[str, Any] = {
            "split": split.name,
            "classes": split.class_names,
            "images": len(split),
            "data": split.shard_set.digest,
            "shown": self.config.images and self.config.images.model_dump(),
            "tasks": self.config.tasks,
            "queries": self.config.queries,
            "which": self.config.which,
            "protocols": [item.model_dump(mode="json") for item in self.config.protocols],
            "seed": self.config.seed or 0,
            "banks": [
                {"ways": ways, "shots": shots, "file": file}
                for (ways, shots), file in places.items()
            ],
            "models": [{"label": name, "weights": digests[name]} for name in digests],
            "results": [result_entry(item, len(split.class_names)) for item in scored],
            "differences": differences(complete),
            **({} if self.config.race is None else {"races": races}),
        }
        write_table(scored, out)
        write_summary(summary, out)
        for item in scored:
            tqdm.write(item.line())
        for entry in summary["differences"]:
            tqdm.write(f"{entry['ways']}-way {entry['shots']}-shot: {entry['words']}")
        for entry in races:
            tqdm.write(f"{entry['ways']}-way {entry['shots']}-shot: {entry['words']}")
        return flat_metrics(summary)

    def _candidates(
        self,
        inputs: Mapping[str, StageResult],
        data: Sequence[Data],
        rows: NDArray[np.int64],
        cache: Location,
    ) -> Iterator[Candidate]:
        """Yield baselines, the feature table, and each model."""
        config = self.config
        models = inputs_giving(inputs, "model")
        loaded = [config.load(model.path) for model in models]
        shards = next((source for source in data if isinstance(source, ShardSet)), None)
        tables = next((source for source in data if isinstance(source, FeatureSet)), None)
        images = next((m.images for m in loaded if not _on_vectors(m)), ImageSpec())
        if shards is not None:
            for _ in config.baselines:
                part = Part(shards.split(config.split), rows)
                yield Pixels(shards, part, images, cache, config.batch_size)
        if tables is not None:
            label = inputs_giving(inputs, "features")[0].label
            yield Vectors(label, tables.split(config.split), rows)
        for stage, model in zip(models, loaded, strict=True):
            source = tables if _on_vectors(model) else shards
            assert source is not None  # `check_sources` refuses such needs
            yield Model(
                stage.label,
                model,
                source,
                Part(source.split(config.split), rows),
                cache,
                batch_size=config.batch_size,
                loader_workers=config.loader_workers,
            )

    def _scored(
        self, candidates: Iterable[Candidate], questions: Mapping[tuple[int, int], Questions]
    ) -> tuple[list[Scored], dict[str, str], list[dict[str, Any]]]:
        """Return the answers, a digest of each candidate, and how the races ended."""
        config, seed = self.config, self.config.seed or 0
        digests: dict[str, str] = {}
        if config.race is not None:
            everybody = list(candidates)
            digests = {candidate.name: candidate.digest for candidate in everybody}
            scored, races = race_banks(everybody, config.protocols, questions, config.race, seed)
            return scored, digests, races
        scored = []
        for candidate in candidates:  # one at a time: each holds its features
            digests[candidate.name] = candidate.digest
            for (ways, shots), asked in questions.items():
                for one in competitors(candidate, config.protocols, seed):
                    setting = Setting(one.protocol_name, ways, shots)
                    scored.append(Scored(candidate.name, setting, one.answer(asked), asked.classes))
        return scored, digests, []


def _sources(inputs: Mapping[str, StageResult]) -> list[StageResult]:
    return [*inputs_giving(inputs, "shards"), *inputs_giving(inputs, "features")]


def _on_vectors(model: LoadedModel) -> bool:
    return isinstance(model.config.backbone, FeaturesConfig)


def _same_images(one: LabelledRows, other: LabelledRows) -> None:
    """Refuse features of other images: an episode is a list of rows."""
    if (one.shard_set.digest, len(one)) != (other.shard_set.digest, len(other)):
        raise StageError(
            f"{other.shard_set.root}: these features are of other images than "
            f"{one.shard_set.root}; evaluate them in a stage of their own"
        )


def seal_banks(config: EvaluateConfig, split: LabelledRows) -> dict[tuple[int, int], EpisodeBank]:
    """Return the episodes of each (ways, shots)."""
    return {
        (ways, shots): EpisodeBank.make(
            split, ways, shots, config.queries_per_way, config.tasks, config.seed or 0
        )
        for ways in config.all_ways
        for shots in config.shots
    }


def check_data(config: EvaluateConfig, data: Data) -> None:
    """Refuse settings that the data cannot serve."""
    if config.baselines or isinstance(data, FeatureSet):
        check_base(config.protocols, str(data.root), data.splits)
    counts = data.split(config.split).class_rows().counts
    needed = max(config.shots) + (config.queries_per_way or 1)
    enough = int((counts >= needed).sum())
    if max(config.all_ways) > enough:
        raise ConfigError(
            f"ways: {max(config.all_ways)} classes per episode, but split {config.split!r} has "
            f"{len(counts)}, of which {enough} have the {needed} images that shots and queries "
            "need; lower ways, shots or queries"
        )
