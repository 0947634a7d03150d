"""Samples -> tar shards, an index, and descriptors for other people's readers.

The tars are webdataset's own (USTAR, `<key>.png` beside `<key>.cls`), with fixed times and owners:
equal settings give equal bytes. Each shard is written under a temporary name and renamed; the
index comes last, so a directory with an index is complete.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_shards.checked_image import EncodedImage, checked_image
from data_shards.location import Location
from data_shards.manifest import INDEX_NAME, ShardFile, ShardSet
from data_shards.manifest_builder import ManifestBuilder
from data_shards.sources import Sample, Source, SourceConfig, build_source, classes_of
from data_shards.splits import ALL_SPLITS, SharedImages, check_disjoint
from data_shards.tar_shard import TarShard
from fsl.config import fingerprint
from fsl.errors import ConfigError, ShardError, StorageError

logger = logging.getLogger(__name__)

DESCRIPTOR = "shardindex.json"
VERSION = 1
READERS = 8
"""Threads that read and decode; more than this waits for the disk anyway."""
AHEAD = 512
"""Images read ahead of the one being written."""


def write_shards(
    source_config: SourceConfig,
    destination: Location,
    *,
    shard_mb: float = 128,
    max_samples: int = 2000,
    seed: int = 0,
    progress: bool = True,
    overwrite: bool = False,
) -> ShardSet:
    """Write all samples of a source as shards below `destination`, one directory per split.

    A finished shard set made from the same source with the same settings is returned as it is.

    Args:
        source_config: what to read.
        destination: directory, made when missing.
        shard_mb: shards are closed before they exceed this many MB (10^6 bytes).
        max_samples: and after this many samples.
        seed: seed of the order of the samples.
        progress: show a bar on stderr.
        overwrite: replace a finished shard set made otherwise.

    Raises:
        ShardError: an unreadable image, the same image in two splits, no room on the disk.
        ConfigError: a class in two splits, settings that fit no data.
    """
    if shard_mb <= 0 or max_samples < 1:
        raise ConfigError(f"shard_mb={shard_mb}, max_samples={max_samples}: must be positive")
    if seed < 0:
        raise ConfigError(f"seed={seed}: must be 0 or more")
    source = build_source(source_config)
    recipe = {
        "settings": source_config.model_dump(mode="json"),
        "settings_key": fingerprint(source_config),
        "fingerprint": source.fingerprint(),
        "shard_mb": shard_mb,
        "max_samples": max_samples,
        "writer": VERSION,
    }
    finished = _finished(destination, recipe, seed, overwrite)
    if finished is not None:
        return finished
    try:
        packing = _Packing(source, destination, recipe, seed, progress)
        clear(destination)
        return packing.run()
    except StorageError as error:
        raise ShardError(f"{error}; no index was written, start again when mended") from error


def clear(destination: Location) -> None:
    """Delete what an earlier write left in `destination`, finished or not; nothing else.

    Files of others are looked for before anything is deleted. Then the index goes first: whatever
    happens next, half a shard set is never taken for a whole one.
    """
    left = [item for split in ALL_SPLITS for item in _left_of_split(destination / split, split)]
    for item in (destination / INDEX_NAME, *left):
        item.delete()


def _left_of_split(folder: Location, split: str) -> list[Location]:
    """Return the writer's own files in the folder of a split; raises ShardError on others."""
    ours = re.compile(rf"\.?{split}-\d{{6}}\.tar(\.part)?|{re.escape(DESCRIPTOR)}")
    found = []
    for item in folder.list() if folder.exists() else ():
        if ours.fullmatch(item.name):
            found.append(item)
        elif not item.name.startswith("."):
            raise ShardError(
                f"{item}: was not made by the writer of shards; choose another directory "
                "or move it away"
            )
    return found


def _finished(
    destination: Location, recipe: dict[str, Any], seed: int, overwrite: bool
) -> ShardSet | None:
    """Return the shard set that lies in `destination` if it is the one asked for."""
    if overwrite or not (destination / INDEX_NAME).exists():
        return None
    there = ShardSet.open(destination)
    whole = all(
        (destination / file.name).exists() and (destination / file.name).size() == file.bytes
        for file in there.files
    )
    if _without_place(there.source) == _without_place(recipe) and there.seed == seed:
        return there if whole else None
    raise ShardError(
        f"{destination}: holds a finished shard set made of another source or with other "
        "settings; choose another directory, or overwrite it (--overwrite)"
    )


def _without_place(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides about the content: the settings are for people, their key counts."""
    return {name: value for name, value in recipe.items() if name != "settings"}


class _Packing:
    """One run of the writer."""

    def __init__(
        self,
        source: Source[Any],
        destination: Location,
        recipe: dict[str, Any],
        seed: int,
        progress: bool,
    ) -> None:
        self.source, self.destination, self.seed = source, destination, seed
        self.samples = list(source.samples())
        if not self.samples:
            raise ConfigError(f"source {source.config.name!r}: no samples")
        found = classes_of(self.samples)
        check_disjoint(found, f"source {source.config.name!r}")
        self.classes = {split: found[split] for split in ALL_SPLITS if split in found}
        self.labels = {
            split: {name: label for label, name in enumerate(names)}
            for split, names in self.classes.items()
        }
        self.shard_bytes = int(recipe["shard_mb"] * 1e6)
        self.max_samples: int = recipe["max_samples"]
        self.manifest = ManifestBuilder(self.classes, seed, recipe)
        self.shared = SharedImages()
        self.files: list[ShardFile] = []
        self.bar = tqdm(
            total=len(self.samples), unit=" images", disable=not progress, desc="shards"
        )

    def run(self) -> ShardSet:
        """Write everything; return the finished shard set."""
        self.destination.make_dir()
        with self.bar, tempfile.TemporaryDirectory(prefix="fewshot-shards-") as spool:
            for split in self.classes:
                self._write_split(split, Path(spool))
        if self.shared.count:
            logger.warning("%s (%d in all)", self.shared.example, self.shared.count)
        return self.manifest.finish(self.destination, self.files)

    def _write_split(self, split: str, spool: Path) -> None:
        """Write the shards of one split, in shuffled order, and their descriptor."""
        members = [sample for sample in self.samples if sample.split == split]
        order = np.random.default_rng([self.seed, ALL_SPLITS.index(split)]).permutation(
            len(members)
        )
        shuffled = [members[i] for i in order]
        width = max(8, len(str(len(shuffled))))
        folder = self.destination / split
        shards: list[tuple[ShardFile, str]] = []
        shard: TarShard | None = None
        try:
            for row, (sample, image) in enumerate(self._images(shuffled)):
                fields = self._fields(sample, image)
                if shard is not None and self._full(shard, fields):
                    shards.append(shard.close())
                    shard = None
                if shard is None:
                    shard = TarShard(folder / f"{split}-{len(shards):06d}.tar", split, spool)
                self._add(shard, f"{row:0{width}d}", sample, image, fields)
            if shard is not None:
                shards.append(shard.close())
        except BaseException:
            if shard is not None:
                shard.abandon()
            raise
        self.files += [file for file, _ in shards]
        (folder / DESCRIPTOR).write_text(_descriptor(split, shards))

    def _full(self, shard: TarShard, fields: dict[str, bytes]) -> bool:
        return shard.samples >= self.max_samples or shard.bytes_with(fields) > self.shard_bytes

    def _fields(self, sample: Sample, image: EncodedImage) -> dict[str, bytes]:
        """Return the members of a sample by extension."""
        fields = {
            image.ext: image.content,
            "cls": str(self.labels[sample.split][sample.class_name]).encode(),
        }
        if sample.extra:
            fields["json"] = json.dumps(dict(sample.extra), sort_keys=True).encode()
        return fields

    def _add(
        self, shard: TarShard, key: str, sample: Sample, image: EncodedImage,
        fields: dict[str, bytes],
    ) -> None:  # fmt: skip
        offset, crc32 = shard.add(key, fields, image.ext)
        self.shared.add(sha256(image.content).digest(), sample.split, sample.origin)
        if self.source.config.shared_images == "refuse":
            self.shared.refuse()
        self.manifest.add(
            key,
            sample.split,
            self.labels[sample.split][sample.class_name],
            shard_name=shard.name,
            offset=offset,
            size=len(image.content),
            ext=image.ext,
            crc32=crc32,
            width=image.width,
            height=image.height,
            extra={**sample.extra, "origin": sample.origin},
        )
        self.bar.update()

    def _images(self, samples: Sequence[Sample]) -> Iterator[tuple[Sample, EncodedImage]]:
        """Yield samples with their images in order, read by several threads ahead of use."""
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(samples), AHEAD):
                some = samples[start : start + AHEAD]
                yield from zip(some, pool.map(self._read, some), strict=True)

    def _read(self, sample: Sample) -> EncodedImage:
        where = f"source {self.source.config.name!r}: {sample.origin}"
        return checked_image(self.source.read(sample), where)


def _descriptor(split: str, shards: Sequence[tuple[ShardFile, str]]) -> str:
    """Return the wids description of one split, whose addresses are relative to its folder."""
    listed = [
        {
            "url": file.name.rpartition("/")[2],
            "nsamples": file.samples,
            "filesize": file.bytes,
            "md5sum": md5,
        }
        for file, md5 in shards
    ]
    content = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": split}
    return json.dumps({**content, "shardlist": listed}, indent=2) + "\n"
