"""A tiny method, shard set and settings for the tests of training; importable by Ray's workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_shards.feature_parts import FeatureMeta
from data_shards.feature_writer import write_features
from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.augment import LabelledBatcher, SingleViewConfig
from fsl.batchers import Batcher
from fsl.config import build
from fsl.images import ImageSpec
from fsl.method import METHODS, Method, MethodConfig
from fsl.types import LabelledBatch, Progress, StepOutput
from pipelines.resolve import filled_in, resolved
from pipelines.session import LocalSession
from pipelines.train_config import TrainConfig
from pipelines.trainer import TrainSpec
from pipelines.training_data import Data

IMAGES = {"mode": "grey", "normalisation": "half", "size": 16, "resize": 16}


class ToyConfig(MethodConfig):
    """Settings of `Toy`."""

    name: Literal["toy"] = "toy"
    classes: int = 12
    """Number of classes."""
    noise: float = 0.1
    """Dropout: something random in the network, as stochastic depth is."""
    break_at: int = -1
    """Step whose loss is not a number."""
    spoil_from: int | None = None
    """Step from which on the gradients are not finite, though the loss is."""
    die_at: int = -1
    """Step at which rank 0 kills itself, once: the file `die_mark` says that it did."""
    die_mark: str = ""


@METHODS.register("toy")
class Toy(Method[LabelledBatch]):
    """A linear classifier with a momentum copy and a running mean, as self-distillation has."""

    Config = ToyConfig
    batch_type = LabelledBatch

    def __init__(self, config: ToyConfig, backbone: nn.Module) -> None:
        super().__init__(config, backbone)
        features: Any = backbone.features
        self.head = nn.Linear(features, config.classes)
        self.teacher = nn.Linear(features, config.classes)
        self.teacher.requires_grad_(False)
        self.register_buffer("center", torch.zeros(config.classes))
        self.center: Tensor
        self.step = 0

    @classmethod
    def batcher(cls, config: Any, images: ImageSpec, grid_of: Any) -> Batcher:
        return LabelledBatcher(images, SingleViewConfig())

    def before_step(self, progress: Progress) -> None:
        self.step = progress.step

    def loss(self, batch: LabelledBatch) -> StepOutput:
        features = F.dropout(self.backbone(batch.images), self.config.noise, self.training)
        loss = F.cross_entropy(self.head(features).float(), batch.labels)
        if self.step == self.config.break_at:
            loss = loss * float("nan")
        if self.config.spoil_from is not None and self.step >= self.config.spoil_from:
            loss = loss + (0 * self.head.bias).sum().sqrt()  # whose slope at 0 is infinite
        _die_once(self.config, self.step)
        return StepOutput(loss, {"seen": batch.labels.float().mean()})

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        for old, new in zip(self.teacher.parameters(), self.head.parameters(), strict=True):
            old.lerp_(new, 0.1)
        self.center.lerp_(self.head.bias, 0.1)


def _die_once(config: ToyConfig, step: int) -> None:
    rank = int(os.environ.get("RANK", "0"))
    mark = Path(config.die_mark)
    if step == config.die_at and rank == 0 and not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), 9)


def toy_shards(root: Path) -> ShardSet:
    """Write 12 base and 12 validation classes of 12 small images each, in several shards."""
    config = StrokesConfig(
        size=16, images=12, characters=12, base_alphabets=1, val_alphabets=1, novel_alphabets=0
    )
    return write_shards(config, Location.parse(root), max_samples=40, progress=False)


def toy_config(**changes: Any) -> TrainConfig:
    """Return settings of a run of a second; `changes` are dotted keys with __ for the dot."""
    tree: dict[str, Any] = {
        "kind": "train",
        "seed": 7,
        "images": IMAGES,
        "backbone": {"name": "vit", "width": 16, "depth": 2, "heads": 2, "patch": 8},
        "method": {"name": "toy"},
        "data": {"batch_size": 24},
        "optim": {"epochs": 3, "lr": 0.01, "min_lr": 0.001, "warmup_epochs": 1},
        "validation": {"every_epochs": 1, "ways": 3, "shots": 1, "queries": 4, "tasks": 20},
        "checkpoint": {"every_steps": 4},
        "log_every": 2,
    }
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return build(TrainConfig, tree, values)


EPISODES = {"name": "fixed", "ways": 4, "shots": 1, "queries": 2, "per_step": 4, "per_epoch": 12}


def episodic_config(**changes: Any) -> TrainConfig:
    """Return settings of a ProtoNet run of a second."""
    tree = toy_config().model_dump(mode="json", exclude={"data", "method", "episodes"})
    method = {"name": "protonet", "view": {"quarter_turns": True}}
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return build(TrainConfig, {**tree, "method": method, "episodes": EPISODES}, values)


def awgim_config(**changes: Any) -> TrainConfig:
    """Return settings of AWGIM on a feature table, for a second."""
    method = {"name": "awgim", "width": 8, "heads": 2, "dropout": 0.2}
    tree = episodic_config().model_dump(mode="json", exclude={"images", "backbone", "method"})
    values = {key.replace("__", "."): value for key, value in changes.items()}
    config = build(TrainConfig, {**tree, "method": method}, values)
    return resolved(config, None, features=True)


CONFIGS = {"images": toy_config, "episodes": episodic_config, "features": awgim_config}


def toy_features(root: Path, shards: ShardSet, spread: float = 0.0) -> Location:
    """Write a table of random vectors of the shards' images; classes lie `spread` apart."""
    place = Location.parse(root)
    meta = FeatureMeta(data=shards.digest, weights=None, preparation={})
    for name in shards.splits:
        split = shards.split(name)
        vectors = np.random.default_rng(0).normal(size=(len(split), 6)).astype(np.float32)
        vectors[:, 0] += split.labels
        centres = np.random.default_rng(1).normal(size=(max(split.labels) + 1, 6))
        vectors += spread * centres[split.labels].astype(np.float32)
        write_features(place, split, {"feature": vectors}, meta)
    return place


def toy_spec(config: TrainConfig, shards: Data, out: Path) -> TrainSpec:
    """Return what the train stage would give to its workers."""
    from pipelines.stages.train import run_spec

    place = Location.parse(out)
    place.make_dir()
    return run_spec(filled_in(config, shards), shards, place)


def weights(method: nn.Module) -> Mapping[str, Tensor]:
    """Return a copy of all tensors of a method."""
    return {name: value.clone() for name, value in method.state_dict().items()}


def assert_near(one: Mapping[str, Tensor], other: Mapping[str, Tensor], loose: float = 1) -> None:
    """Compare weights after different orders of summation.

    The keys' bias has no gradient but rounding errors, which Adam blows up to full size: left out.
    """
    kept = [name for name in one if not name.endswith("qkv.bias")]
    torch.testing.assert_close(
        {name: one[name] for name in kept},
        {name: other[name] for name in kept},
        rtol=2e-3,
        atol=2e-4,
    )


class Interrupted(Exception):
    """The end of a `StopsAtFour`."""


class StopsAtFour(LocalSession):
    """Ends the run after the checkpoint of step 4, in mid-epoch."""

    def save(self, directory: Path | None, name: str, metrics: Mapping[str, float]) -> None:
        super().save(directory, name, metrics)
        if name == "step-00000004":
            raise Interrupted
