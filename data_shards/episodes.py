"""Sealed episode banks: which classes and images each evaluation episode consists of.

Every model is evaluated on the same file, so differences between models are paired. Episode i of
seed s is a pure function of (s, i), whatever the number of episodes: each class and each image
gets a hash under (seed, episode), the smallest are taken. Nothing loops over episodes.

Letters in shapes: E episodes, W ways, k shots, q queries, C classes, N images of the split.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_shards.episode_draws import I32, classes_large_enough, draw_classes, draw_rows
from data_shards.labelled_rows import LabelledRows
from data_shards.location import Location
from fsl.errors import ShardError

FORMAT = 1
METADATA_KEY = b"fewshot-episodes"


@dataclass(frozen=True)
class EpisodeBank:
    """Episodes as row numbers of a split.

    Attributes:
        split: name of the split.
        data_digest: digest of the shard set; a bank fits no other.
        seed: what the episodes were drawn from.
        shots: support images per class.
        queries: query images per class; None for all that remain.
        classes: (E, W) class of each way.
        support: (E, W, k) rows.
        query: (E, W, q) rows; None when the queries are all remaining images of each class.
    """

    split: str
    data_digest: str
    seed: int
    shots: int
    queries: int | None
    classes: I32
    support: I32
    query: I32 | None

    @property
    def tasks(self) -> int:
        """Number of episodes E."""
        return int(self.classes.shape[0])

    @property
    def ways(self) -> int:
        """Classes per episode W."""
        return int(self.classes.shape[1])

    def __len__(self) -> int:
        return self.tasks

    @classmethod
    def make(  # noqa: PLR0917
        cls, split: LabelledRows, ways: int, shots: int, queries: int | None, tasks: int, seed: int
    ) -> EpisodeBank:
        """Draw episodes: `ways` different classes, then different images of each.

        Classes without enough images for shots and queries take no part.

        Raises:
            ConfigError: fewer classes with enough images than ways.
        """
        large = classes_large_enough(split, ways, shots, queries, tasks)
        numbers = np.arange(tasks)
        classes = large[draw_classes(len(large), ways, numbers, seed)]
        rows = draw_rows(split, classes, numbers, seed, wanted=shots + (queries or 0))
        return cls(
            split.name,
            split.shard_set.digest,
            seed,
            shots,
            queries,
            classes,
            np.ascontiguousarray(rows[:, :, :shots]),
            None if queries is None else np.ascontiguousarray(rows[:, :, shots:]),
        )

    @property
    def digest(self) -> str:
        """sha256 of everything in the bank."""
        total = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode())
        for array in self._arrays().values():
            total.update(np.ascontiguousarray(array, np.int32).tobytes())
        return total.hexdigest()

    def save(self, directory: Location) -> Location:
        """Write `bank-<digest>.parquet` (one row per episode); an equal bank is written once."""
        digest = self.digest
        target = directory / f"bank-{digest[:12]}.parquet"
        if target.exists():
            return target
        columns = {name: _as_lists(array) for name, array in self._arrays().items()}
        metadata = json.dumps(self._settings() | {"digest": digest}).encode()
        table = pa.table(columns).replace_schema_metadata({METADATA_KEY: metadata})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        directory.make_dir()
        target.write_bytes(sink.getvalue())
        return target

    @classmethod
    def load(cls, where: Location) -> EpisodeBank:
        """Return a saved bank; raises ShardError when it is not one, or was changed."""
        try:
            table = pq.read_table(pa.BufferReader(where.read_bytes()))
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ShardError(f"{where}: not a readable bank: {reason}; make it again") from None
        raw = (table.schema.metadata or {}).get(METADATA_KEY)
        settings = json.loads(raw) if raw else {}
        if settings.get("format") != FORMAT:
            raise ShardError(f"{where}: not an episode bank of format {FORMAT}; make it again")
        tasks, ways = settings["tasks"], settings["ways"]
        arrays = {
            name: table[name].combine_chunks().values.to_numpy().reshape(tasks, ways, -1)
            for name in table.column_names
        }
        bank = cls(
            settings["split"],
            settings["data"],
            settings["seed"],
            settings["shots"],
            settings["queries"],
            arrays["classes"].reshape(tasks, ways),
            arrays["support"],
            arrays.get("query"),
        )
        if bank.digest != settings["digest"]:
            raise ShardError(f"{where}: its episodes were changed; make it again")
        return bank

    def refuse_other(self, split: LabelledRows) -> None:
        """Raise ShardError unless the bank was made for this split of this data."""
        if (self.split, self.data_digest) != (split.name, split.shard_set.digest):
            raise ShardError(
                f"{split.shard_set.root}: the episode bank is of split {self.split!r} of data "
                f"{self.data_digest[:12]}, this is {split.name!r} of "
                f"{split.shard_set.digest[:12]}; make a bank for it"
            )

    def _arrays(self) -> dict[str, I32]:
        arrays = {"classes": self.classes, "support": self.support}
        return arrays if self.query is None else arrays | {"query": self.query}

    def _settings(self) -> dict[str, str | int | None]:
        return {
            "format": FORMAT,
            "split": self.split,
            "data": self.data_digest,
            "seed": self.seed,
            "tasks": self.tasks,
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
        }


def _as_lists(array: I32) -> pa.Array:
    """Return one fixed-size list per episode."""
    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
