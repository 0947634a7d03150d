"""Shard sets as stages: `write_shards` makes one, `use_shards` takes one that is there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from data_shards.class_tree import tree_digest
from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.sources import AnySourceConfig, build_source
from data_shards.splits import HELD_OUT
from data_shards.writer import write_shards
from fsl.config import RuntimeOnly, digest
from pipelines.stage import STAGES, PlannedStage, Stage, StageConfig, StageResult


class WriteShardsConfig(StageConfig):
    """Settings of `WriteShards`."""

    kind: Literal["write_shards"] = "write_shards"
    source: AnySourceConfig
    """Where the images come from."""
    shard_mb: Annotated[float, Field(gt=0, le=10_000)] = 128.0
    """A shard is closed before it exceeds this many MB (10^6 bytes)."""
    max_samples: Annotated[int, Field(ge=1)] = 2000
    """And after this many samples."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the order in which samples are packed. It does not follow the recipe's seed: runs
    with several seeds share their shards."""


@STAGES.register("write_shards")
class WriteShards(Stage[WriteShardsConfig]):
    """Writes the images of a source as tar shards with an index."""

    Config = WriteShardsConfig
    gives = "shards"

    def data_digest(self) -> str:
        """Return the fingerprint of the source's files."""
        return build_source(self.config.source).fingerprint()

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Write the shards; what an interrupted attempt left is written again."""
        shard_set = write_shards(
            self.config.source,
            out,
            shard_mb=self.config.shard_mb,
            max_samples=self.config.max_samples,
            seed=self.config.seed,
            progress=sys.stderr.isatty(),
        )
        return describe(shard_set)


class UseShardsConfig(StageConfig):
    """Settings of `UseShards`."""

    kind: Literal["use_shards"] = "use_shards"
    path: Annotated[str, Field(min_length=1), RuntimeOnly]
    """Directory or URI of a shard set. The content enters the key, the place does not."""


@STAGES.register("use_shards")
class UseShards(Stage[UseShardsConfig]):
    """Takes a finished shard set where it lies; nothing is copied."""

    Config = UseShardsConfig
    gives = "shards"

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Refuse a place without a shard set."""
        del inputs
        ShardSet.open(self.place())

    def data_digest(self) -> str:
        """Return the digest in the shard set's index, with that of a class tree beside it."""
        shard_set = ShardSet.open(self.place())
        tree = tree_digest(shard_set.root)
        return digest([shard_set.digest, tree]) if tree else shard_set.digest

    def place(self, out: Location | None = None) -> Location:
        """Return the place of the shard set, wherever this stage's own directory is."""
        del out
        return Location.parse(self.config.path)

    def elsewhere(self) -> Location:
        """Return the place of the shard set: it is there before the recipe runs."""
        return self.place()

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Count what is there."""
        return describe(ShardSet.open(self.place()))


def describe(shard_set: ShardSet) -> dict[str, float]:
    """Return the numbers of samples, classes and shards."""
    own = (names for split, names in shard_set.class_names.items() if split != HELD_OUT)
    classes = sum(map(len, own))  # held_out has those of base
    return {
        "images": float(len(shard_set)),
        "classes": float(classes),
        "shards": float(len(shard_set.files)),
    }
