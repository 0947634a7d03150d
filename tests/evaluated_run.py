"""Run directories with a finished evaluate stage, its accuracies drawn instead of measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_shards.location import Location
from fsl.config import digest
from fsl.evaluation import EpisodeScores
from pipelines.accuracies import (
    Scored,
    Setting,
    differences,
    flat_metrics,
    result_entry,
    write_summary,
    write_table,
)

CLASSES, QUERIES = 20, 15


@dataclass
class EvaluatedRun:
    """What `fewshot run` leaves of one recipe: a train stage per model, and an evaluate stage.

    Attributes:
        root: run directory.
        models: label -> mean accuracy of what it answers, at 5-way 1-shot; in the order of needs.
        seed: recipe's seed.
        lr: a setting in which recipes differ.
        settings: evaluate settings that differ from the usual.
        luck: spread of the accuracy over classes that is the model's own.
        chain: whether each model starts from the one before it.
        pretrained: file of weights that the models start from, and digest of its content.
    """

    root: Path
    models: Mapping[str, float]
    seed: int = 0
    lr: float = 0.001
    settings: Mapping[str, Any] = field(default_factory=dict)
    luck: float = 0.02
    protocols: Sequence[str] = ("prototype",)
    baselines: Mapping[str, float] = field(default_factory=dict)
    data: str = "data"
    cpu_minutes: float | None = 10.0
    chain: bool = False
    pretrained: tuple[str, str] | None = None
    label: str = "evaluate"
    finished: str = "2026-01-01 00:00:00"

    def write(self) -> Path:
        """Write all, return the evaluate stage's directory."""
        config = {
            "kind": "evaluate", "ways": 5, "shots": [1, 5], "tasks": 400, "queries": QUERIES,
            "seed": 0, "split": "novel", "baselines": list(self.baselines), **self.settings,
        }  # fmt: skip
        needs: list[dict[str, str]] = []
        for label in self.models:
            needs.append(self._train(label, needs[-1:] if self.chain else []))
        key = digest([self.seed, config, needs, self.data])
        place = self.root / f"{self.label}-{key[:12]}"
        place.mkdir(parents=True)
        scored = list(self._scored(config))
        labels = [*self.baselines, *self.models]
        summary = {
            "split": config["split"], "data": digest(self.data), "tasks": config["tasks"],
            "queries": config["queries"], "seed": config["seed"], "which": "best",
            "classes": [f"class {i}" for i in range(CLASSES)],
            "banks": [
                {"ways": 5, "shots": k, "file": f"bank-{self._bank(config, k)}.parquet"}
                for k in config["shots"]
            ],
            "models": [{"label": name, "weights": self._weights(name)} for name in labels],
            "results": [result_entry(item, CLASSES) for item in scored],
            "differences": differences(scored),
        }  # fmt: skip
        write_table(scored, Location.parse(place))
        write_summary(summary, Location.parse(place))
        identity = {"label": self.label, "kind": "evaluate", "key": key, "inputs": needs}
        self._record(place, identity, config, flat_metrics(summary))
        return place

    def _train(self, label: str, needs: Sequence[Mapping[str, str]]) -> dict[str, str]:
        config = {
            "kind": "train", "seed": self.seed, "needs": [], "optim": {"lr": self.lr},
            "method": {"name": "masked_distillation"}, "backbone": {"name": "conv4"},
        }  # fmt: skip
        file, content = self.pretrained or (None, "")
        if file is not None:
            config["backbone"] = {"name": "vit", "pretrained": file}
        key = digest([label, self.seed, self.lr, *content])
        place = self.root / f"{label}-{key[:12]}"
        place.mkdir(parents=True, exist_ok=True)
        spent = {} if self.cpu_minutes is None else {"cpu_minutes": self.cpu_minutes}
        identity = {"label": label, "kind": "train", "key": key, "data": content}
        self._record(place, {**identity, "inputs": needs}, config, spent)
        return {**identity, "dir": place.name}

    def _record(
        self,
        place: Path,
        identity: Mapping[str, Any],
        config: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        (place / "config.json").write_text(json.dumps({**identity, "config": config}))
        done = {**identity, "metrics": metrics, "finished": self.finished, "seconds": 1.0}
        (place / "result.json").write_text(json.dumps(done))

    def _weights(self, label: str) -> str:
        return label if label in self.baselines else digest([label, self.seed, self.lr])

    def _bank(self, config: Mapping[str, Any], shots: int) -> str:
        names = ("tasks", "queries", "seed", "split")
        return digest([self.data, shots, [config[name] for name in names]])[:12]

    def _scored(self, config: Mapping[str, Any]) -> list[Scored]:
        found = []
        for label, mean in {**self.baselines, **self.models}.items():
            for shots in config["shots"]:
                for number, protocol in enumerate(self.protocols):
                    own = _number([self._weights(label), protocol])
                    bank = _number(self._bank(config, shots))
                    level = mean - 0.03 * number + (1 - mean) * 0.6 * (shots == 5)
                    scores, classes = draw(level, config["tasks"], bank, own, self.luck)
                    found.append(Scored(label, Setting(protocol, 5, shots), scores, classes))
        return found


def draw(
    level: float, tasks: int, bank: int, own: int, luck: float
) -> tuple[EpisodeScores, Tensor]:
    """Return right queries per episode and way, and the classes (E, W) that the bank fixes."""
    episodes = torch.Generator().manual_seed(bank)
    classes = torch.rand(tasks, CLASSES, generator=episodes).argsort(-1)[:, :5]  # (E, W)
    hard = 0.04 * torch.randn(CLASSES, generator=episodes)
    luck_of_episode = 0.05 * torch.randn(tasks, 1, generator=episodes)
    model = torch.Generator().manual_seed(own)
    liked = luck * torch.randn(CLASSES, generator=model)
    chance = (level + (hard + liked)[classes] + luck_of_episode).clamp(
        0.01, 0.99 if level < 1 else 1
    )  # (E, W)
    correct = torch.binomial(torch.full_like(chance, QUERIES), chance, generator=model).long()
    return EpisodeScores(correct, torch.full_like(correct, QUERIES)), classes


def _number(value: Any) -> int:
    return int(digest(value)[:12], 16)
