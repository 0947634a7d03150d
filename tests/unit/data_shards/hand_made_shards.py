"""A tiny shard set made by hand: webdataset's writer, offsets from the standard library."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from webdataset.writer import TarWriter

from data_shards.location import Location
from data_shards.manifest import ShardFile, ShardSet
from data_shards.manifest_builder import ManifestBuilder

Samples = dict[str, dict[str, dict[str, bytes]]]

CLASSES = {"base": ["ant", "bee", "cat"], "novel": ["dog", "elk"]}
SHARDS = {"base/base-000000.tar": 8, "base/base-000001.tar": 7, "novel/novel-000000.tar": 8}


def png(seed: int, side: int = 12) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 2, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
        for key, fields in samples.items():
            tar.write({"__key__": key, **fields})


def index_by_hand(root: Path, samples: Mapping[str, Mapping[str, Mapping[str, bytes]]]) -> ShardSet:
    builder = ManifestBuilder(CLASSES, seed=3, source={"name": "by hand"})
    files = []
    for name, fields_of in samples.items():
        with tarfile.open(root / name) as tar:
            for member in tar:
                key, _, ext = member.name.partition(".")
                if ext != "png":
                    continue
                data, split = fields_of[key]["png"], name.partition("/")[0]
                extra = {"letter": CLASSES[split][int(fields_of[key]["cls"])][0]}
                builder.add(
                    key, split, int(fields_of[key]["cls"]), shard_name=name,
                    offset=member.offset_data, size=member.size, ext=ext, crc32=zlib.crc32(data),
                    width=14, height=12, extra=extra,
                )  # fmt: skip
        content = (root / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        files.append(ShardFile(name, len(content), len(fields_of), digest))
    return builder.finish(Location.parse(root), files)


def hand_made_samples() -> Samples:
    samples: Samples = {}
    number = 0
    for name, count in SHARDS.items():
        classes = len(CLASSES[name.partition("/")[0]])
        samples[name] = {}
        for _ in range(count):
            fields = {"png": png(number), "cls": str(number % classes).encode()}
            samples[name][f"{number:06d}"] = fields
            number += 1
    return samples
