"""The evaluate stage: few-shot accuracy of models on classes none of them has seen.

All models answer the same sealed episodes, so differences between them are paired. Features are
computed once per checkpoint; after that an episode costs microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from tqdm import tqdm

from data_shards.episodes import EpisodeBank
from data_shards.location import Location
from data_shards.manifest import ShardSet, Split
from fsl.config import RuntimeOnly
from fsl.cosine_classifier import EPOCHS, classifier_scores
from fsl.errors import ConfigError, StageError
from fsl.evaluation import EpisodeScores, prototype_scores
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
from pipelines.candidates import Candidate, Model, Pixels
from pipelines.checkpoint import load_model
from pipelines.stage import (
    ANY,
    ONE,
    STAGES,
    Count,
    PlannedStage,
    Stage,
    StageConfig,
    StageResult,
    inputs_giving,
)

BANKS, FEATURES = "banks", "features"
Protocol = Literal["method", "prototype", "classifier"]


class EvaluateConfig(StageConfig):
    """Settings of an evaluate stage."""

    kind: Literal["evaluate"] = "evaluate"
    split: str = "novel"
    """Split whose classes are recognised; nothing was trained or selected on it."""
    ways: Annotated[int, Field(ge=2)] | list[Annotated[int, Field(ge=2)]] = 5
    """Classes per episode; a list evaluates each."""
    shots: list[Annotated[int, Field(ge=1)]] = Field(default=[1, 5])
    """Labelled images per class; each is evaluated."""
    queries: Annotated[int, Field(ge=1)] | Literal["all"] = 15
    """Images per class to recognise. `all`: all that remain, up to 600 (the paper's protocol)."""
    tasks: Annotated[int, Field(ge=2, le=1_000_000)] = 2000
    """Episodes; the paper has 10000."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of the episodes; null: the recipe's."""
    protocols: list[Protocol] = Field(default=["prototype"])
    """`method`: the method's own classifier (of a baseline: as `prototype`). `prototype`: nearest
    class mean by cosine. `classifier`: a cosine classifier trained on each episode's support."""
    which: Literal["best", "last"] = "best"
    """Which checkpoint of each train stage."""
    baselines: list[Literal["pixels"]] = Field(default=[])
    """What learnt nothing, for comparison: `pixels` takes small pictures for features."""
    classifier_epochs: Annotated[int, Field(ge=1, le=10_000)] = EPOCHS
    """Passes over the support; the published protocol has 301."""
    batch_size: Annotated[int, Field(ge=1), RuntimeOnly] = 256
    """Images per forward pass."""
    loader_workers: Annotated[int, Field(ge=0, le=64), RuntimeOnly] = 0
    """Processes that decode; 0 decodes here."""

    @field_validator("shots", "protocols", "ways")
    @classmethod
    def _named_once(cls, value: Any) -> Any:
        if isinstance(value, list) and (not value or len(set(value)) != len(value)):
            raise ValueError("needs at least one entry, each once")
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
    gives = "accuracies"
    takes: ClassVar[Mapping[str, Count]] = {"shards": ONE, "model": ANY}

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Find impossible settings; those about the data once the shards exist."""
        models = [item.label for item in inputs_giving(inputs, "model")]
        if not models and not self.config.baselines:
            raise StageError(
                "nothing to evaluate: list a train stage in needs, or set baselines: [pixels]"
            )
        clash = set(models) & set(self.config.baselines)
        if clash:
            raise StageError(f"a train stage is called {clash.pop()!r} like a baseline; rename it")
        for shards in inputs_giving(inputs, "shards"):
            if shards.result is not None:
                check_data(self.config, ShardSet.open(shards.result.path))

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Compute features, answer the episodes, write table and summary."""
        shard_set = ShardSet.open(inputs_giving(inputs, "shards")[0].path)
        check_data(self.config, shard_set)
        split = shard_set.split(self.config.split)
        banks = seal_banks(self.config, split)
        places = {name: bank.save(out / BANKS).name for name, bank in banks.items()}
        models = inputs_giving(inputs, "model")
        scored: list[Scored] = []
        digests: dict[str, str] = {}
        for candidate in self._candidates(models, split, out / FEATURES):
            digests[candidate.name] = candidate.digest
            scored += self._score(candidate, banks, split)
        order = [*self.config.baselines, *(model.label for model in models)]
        summary: dict[str, Any] = {
            "split": split.name,
            "classes": split.class_names,
            "images": len(split),
            "data": shard_set.digest,
            "tasks": self.config.tasks,
            "queries": self.config.queries,
            "which": self.config.which,
            "classifier_epochs": self.config.classifier_epochs,
            "seed": self.config.seed or 0,
            "banks": [
                {"ways": ways, "shots": shots, "file": file}
                for (ways, shots), file in places.items()
            ],
            "models": [{"label": name, "weights": digests[name]} for name in order],
            "results": [result_entry(item, len(split.class_names)) for item in scored],
            "differences": differences(scored),
        }
        write_table(scored, out)
        write_summary(summary, out)
        for item in scored:
            tqdm.write(item.line())
        for entry in summary["differences"]:
            tqdm.write(f"{entry['ways']}-way {entry['shots']}-shot: {entry['words']}")
        return flat_metrics(summary)

    def _candidates(
        self, models: list[StageResult], split: Split, cache: Location
    ) -> Iterator[Candidate]:
        """Yield each baseline and model."""
        config = self.config
        loaded = [load_model(model.path, config.which) for model in models]
        images = loaded[0].images if loaded else ImageSpec()
        for _ in config.baselines:
            yield Pixels(split, images, cache, config.batch_size)
        for stage, model in zip(models, loaded, strict=True):
            yield Model(
                stage.label,
                model,
                split,
                cache,
                batch_size=config.batch_size,
                loader_workers=config.loader_workers,
            )

    def _score(
        self, candidate: Candidate, banks: Mapping[tuple[int, int], EpisodeBank], split: Split
    ) -> Iterator[Scored]:
        """Yield one candidate's scores under each setting."""
        labels = torch.from_numpy(split.labels.copy()).long()
        for (ways, shots), bank in banks.items():
            classes = torch.from_numpy(bank.classes.copy()).long()
            for protocol in self.config.protocols:
                scores = self._answer(protocol, candidate, labels, bank)
                yield Scored(candidate.name, Setting(protocol, ways, shots), scores, classes)

    def _answer(
        self, protocol: Protocol, candidate: Candidate, labels: Tensor, bank: EpisodeBank
    ) -> EpisodeScores:
        support = torch.from_numpy(bank.support.copy()).long()
        query = None if bank.query is None else torch.from_numpy(bank.query.copy()).long()
        if protocol == "method":
            return candidate.own_scores(labels, support, query)
        if protocol == "prototype":
            return prototype_scores(candidate.features, labels, support, query)
        return classifier_scores(
            candidate.features,
            labels,
            support,
            query,
            seed=self.config.seed or 0,
            epochs=self.config.classifier_epochs,
        )


def seal_banks(config: EvaluateConfig, split: Split) -> dict[tuple[int, int], EpisodeBank]:
    """Return the episodes of each (ways, shots)."""
    return {
        (ways, shots): EpisodeBank.make(
            split, ways, shots, config.queries_per_way, config.tasks, config.seed or 0
        )
        for ways in config.all_ways
        for shots in config.shots
    }


def check_data(config: EvaluateConfig, shard_set: ShardSet) -> None:
    """Refuse settings that the data cannot serve."""
    counts = shard_set.split(config.split).class_rows().counts
    needed = max(config.shots) + (config.queries_per_way or 1)
    enough = int((counts >= needed).sum())
    if max(config.all_ways) > enough:
        raise ConfigError(
            f"ways: {max(config.all_ways)} classes per episode, but split {config.split!r} has "
            f"{len(counts)}, of which {enough} have the {needed} images that shots and queries "
            "need; lower ways, shots or queries"
        )
