"""Settings of a train stage.

The batch size is global: workers and micro-batches divide it, so any number of workers sees the
same images in the same step. What is `RuntimeOnly` stays out of the key: it cannot change a
result, but for the number of workers where a network draws numbers (dropout) or looks at several
images at once (plain batch norm: those of one worker).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data_shards.episode_designs import AnyEpisodeDesign
from data_shards.selection import SelectionConfig
from fsl.additions import AnyAdditions
from fsl.backbones import AnyBackboneConfig
from fsl.config import RuntimeOnly, Section
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.method import METHODS, AnyMethodConfig, check_additions
from fsl.search_space import Choice
from fsl.types import Episode
from pipelines.optim_config import OptimConfig
from pipelines.stage import StageConfig


class OrderConfig(Section):
    """How a split's images are put into an order, anew in each epoch."""

    name: Literal["shuffled", "class_balanced"] = "shuffled"
    """`shuffled`: every image once. `class_balanced`: groups of images of one class."""
    shuffle_block: Annotated[int, Field(ge=1)] | None = None
    """`shuffled`: samples move within groups of this many shards; null mixes all of them."""
    images_per_class: Annotated[int, Field(ge=1)] | None = None
    """`class_balanced`: images of one class that follow each other."""

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.name == "shuffled" and self.images_per_class is not None:
            raise ValueError("images_per_class belongs to the order class_balanced; set its name")
        if self.name == "class_balanced" and self.images_per_class is None:
            raise ValueError("the order class_balanced needs images_per_class, e.g. 4")
        if self.name == "class_balanced" and self.shuffle_block is not None:
            raise ValueError("shuffle_block belongs to the order shuffled; remove it")
        return self


class DataConfig(Section):
    """Which images are trained on, and in what portions."""

    split: str | Annotated[tuple[str, ...], Field(min_length=1)] = "base"
    """Split of the shard set. Methods that learn from episodes take several: each task comes from
    one of them, in proportion to their numbers of classes."""
    select: SelectionConfig | None = None
    """Train on a part of the split: some domains, a long tail, without images set aside."""
    batch_size: Annotated[int, Field(ge=1, le=65536), Choice(32, 64, 128, 256)] = 64
    """Images of one optimizer step, over all workers. Not for methods that learn from episodes."""
    order: OrderConfig = OrderConfig()
    """Order of the images."""
    incomplete: Literal["drop", "keep"] = "drop"
    """What becomes of an epoch's last, incomplete batch. Kept, it is padded with repetitions that
    weigh nothing when it has fewer images than there are workers and micro-batches."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Most images (or tasks) that one worker passes through the network at once; a larger share
    is accumulated. Losses over pairs see the pairs within a micro-batch. Null: the whole share."""
    loader_workers: Annotated[int, Field(ge=0, le=64), RuntimeOnly] = 0
    """Processes per worker that decode and augment; 0 does it in the training process."""
    prefetch: Annotated[int, Field(ge=1, le=64), RuntimeOnly] = 2
    """Batches each loader process makes ahead."""
    cache: Annotated[Literal["none", "decoded"], RuntimeOnly] = "none"
    """`decoded` keeps all decoded images of the split in memory: for small images."""


_IMAGE_BATCHES = ("batch_size", "order", "incomplete")


class ValidationConfig(Section):
    """Accuracy on images that are not trained on, which chooses the best checkpoint."""

    kind: Literal["episodes", "classes"] = "episodes"
    """`episodes`: few-shot tasks of validation classes. `classes`: which of the training classes
    the images set aside by `data.select.set_aside` are of; then only `every_epochs`, `batch_size`
    count."""
    every_epochs: Annotated[int, Field(ge=0)] = 10
    """Validate after so many epochs, and after the last one; 0 never does, and the best
    checkpoint is then the last."""
    split: str = "val"
    """Split of the shard set. Its classes may not be trained on, nor by an earlier stage that this
    one comes from; with `data.split: [base, val]` none are left: set `every_epochs: 0`."""
    ways: Annotated[int, Field(ge=2)] = 5
    """Classes of a task."""
    shots: Annotated[int, Field(ge=1)] = 1
    """Labelled images per class."""
    queries: Annotated[int, Field(ge=1)] = 15
    """Images per class to be recognised."""
    tasks: Annotated[int, Field(ge=2)] = 600
    """Number of tasks; the same ones each time."""
    batch_size: Annotated[int, Field(ge=1), RuntimeOnly] = 128
    """Images per forward pass."""


class CheckpointConfig(Section):
    """When the state is saved."""

    every_steps: Annotated[int, Field(ge=1), RuntimeOnly] | None = None
    """Save after so many steps; null: at the first end of an epoch after a minute. Also saved: at
    each validation, at the end."""
    keep: Annotated[int, Field(ge=1), RuntimeOnly] = 2
    """Checkpoints that stay: the best ones by validation; the last one always stays."""


class ClusterConfig(Section):
    """What the stage asks of the cluster. Does not change which images a step learns from."""

    launcher: Literal["ray", "local"] = "ray"
    """Who runs the training: workers of Ray Train, or this very process. `local` takes one worker
    and starts at once; Ray needs about half a minute on a laptop."""
    workers: (
        Annotated[int, Field(ge=1)]
        | tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    ) = 1
    """Training processes; [min, max] goes on with fewer or more as nodes leave and come."""
    gpu: Literal["auto"] | bool = "auto"
    """One GPU per worker; `auto` when the cluster has any now: where nodes with GPUs are added on
    demand, say true."""
    cpus_per_worker: Annotated[int, Field(ge=1)] = 1
    """CPUs reserved per worker; without a GPU also its torch threads."""
    max_failures: Annotated[int, Field(ge=-1)] = 3
    """Restarts from the last checkpoint after a worker's death; -1: without limit."""
    resize_seconds: Annotated[float, Field(ge=0)] = 60.0
    """With [min, max]: how often a larger group is considered."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers: {list(self.workers)} is [min, max]; exchange the two")
        if self.launcher == "local" and self.workers != 1:
            raise ValueError(f"workers: {self.workers}, but launcher: local is one; use ray")
        return self

    @property
    def fewest(self) -> int:
        """Workers without which nothing runs."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Largest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class InitConfig(Section):
    """What is taken over from the train stage in `needs`. Schedules always start anew."""

    restore: Literal["all", "weights", "backbone"] = "all"
    """`all`: weights, teacher, centres, optimizer moments, gradient scaler. `weights`: without
    the last two. `backbone`: the network's weights only, for another method."""
    which: Literal["best", "last"] = "last"
    """Which of its checkpoints."""


class TrainConfig(StageConfig):
    """Settings of a train stage."""

    kind: Literal["train"] = "train"
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Seed of order, augmentation, weights; null: the recipe's."""
    images: ImageSpec | None = None
    """What the pixels are; null: as in the train stage in `needs`, or the defaults."""
    backbone: AnyBackboneConfig | None = None
    """Network; null: that of the train stage in `needs`."""
    method: AnyMethodConfig
    """What is learnt."""
    additions: AnyAdditions = {}  # noqa: RUF012 - pydantic copies it
    """What rides on the method in training, each by its name, e.g. drloc: {weight: 0.5}."""
    data: DataConfig = DataConfig()
    """Images and batches."""
    episodes: AnyEpisodeDesign | None = None
    """Training tasks, for methods that learn from episodes (and only for them)."""
    optim: OptimConfig = OptimConfig()
    """Optimizer."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network; losses and distances are in fp32 anyway."""
    channels_last: Annotated[bool, RuntimeOnly] = False
    """Keep images and convolution weights with channels last: faster convolutions on GPUs."""
    validation: ValidationConfig = ValidationConfig()
    """Validation during training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    cluster: Annotated[ClusterConfig, RuntimeOnly] = ClusterConfig()
    """Workers and their resources."""
    init: InitConfig = InitConfig()
    """Start from the train stage in `needs`, if there is one."""
    log_every: Annotated[int, Field(ge=1), RuntimeOnly] = 10
    """Steps between two lines of metrics."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits trained on."""
        return (self.data.split,) if isinstance(self.data.split, str) else self.data.split

    @model_validator(mode="after")
    def _validation_has_images(self) -> Self:
        if self.validation.kind == "episodes" or not self.validation.every_epochs:
            return self
        if self.data.select is None or not self.data.select.set_aside:
            raise ValueError(
                "validation.kind: classes asks images that were set aside; say how many, e.g. "
                "data.select.set_aside: 0.1"
            )
        if not METHODS.get(self.method.name).learns_classifier():
            raise ValueError(
                f"validation.kind: method {self.method.name!r} learns no classifier that could be "
                "asked for classes; use episodes"
            )
        return self

    @model_validator(mode="after")
    def _additions_fit_the_method(self) -> Self:
        try:
            check_additions(self.additions, self.method.name)
            for addition in self.additions.values():
                addition.check_epochs(self.optim.epochs)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _batches_fit_the_method(self) -> Self:
        kind = METHODS.get(self.method.name)
        if kind.batch_type is not Episode:
            if self.episodes is not None:
                raise ValueError(
                    f"episodes: method {self.method.name!r} does not learn from episodes; remove "
                    "the section, and set data.batch_size"
                )
            if len(self.splits) > 1:
                raise ValueError("data.split: only methods that learn from episodes take several")
            return self
        if self.episodes is None:
            raise ValueError(
                f"episodes: method {self.method.name!r} learns from episodes; say which, e.g. "
                "episodes: {name: fixed, ways: 20, shots: 1, queries: 5}"
            )
        for name in _IMAGE_BATCHES:
            if getattr(self.data, name) != DataConfig.model_fields[name].default:
                raise ValueError(
                    f"data.{name}: method {self.method.name!r} learns from episodes, not from "
                    "batches of images; remove it, and set episodes.per_step"
                )
        return self
