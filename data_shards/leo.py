"""The embeddings published with LEO (Rusu et al.; ICLR 2019) as feature tables.

One pickle per split, in either layout: a dict with `embeddings` (N, D) and `keys`, N strings
"<number>-<class>-<class>_<image>" (LEO), or one array (classes, images, D) (AWGIM). Vectors are
stored as they are; LEO itself divides each by its length before use.

Letters in shapes: N rows, C classes, K images per class, D features.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_shards.feature_parts import F32, FeatureMeta, column_digest
from data_shards.feature_writer import KeyedRows, write_features
from data_shards.features import FeatureSet
from data_shards.location import Location
from data_shards.safe_pickle import load_pickle, noted_array
from data_shards.splits import check_disjoint
from fsl.config import digest
from fsl.errors import ConfigError, ShardError

FILES = {
    "base": "train_embeddings.pkl",
    "val": "val_embeddings.pkl",
    "novel": "test_embeddings.pkl",
}
KEY = re.compile(r"[^-]+-(?P<name>.+)-(?P=name)_.+")
VECTOR = "feature"
HELP = "expected a dict with arrays 'embeddings' and 'keys', or one array (classes, images, D)"


def find_leo(folder: Location) -> dict[str, Location]:
    """Return the files of a folder as published: split -> train/val/test_embeddings.pkl."""
    found = {split: folder / name for split, name in FILES.items() if (folder / name).exists()}
    if not found:
        raise ConfigError(
            f"{folder}: none of {', '.join(FILES.values())} is here; give the folder that holds "
            "them, e.g. embeddings/miniImageNet/center"
        )
    return found


def import_leo(files: Mapping[str, Location], directory: Location) -> FeatureSet:
    """Write feature tables of published embeddings and return them.

    Args:
        files: split (base, val, novel) -> pickle.
        directory: where the tables go; tables of the same embeddings are kept.

    Raises:
        ShardError: a damaged or dangerous pickle, another layout, splits that share a class, or a
            directory with tables of other embeddings.
    """
    if not files:
        raise ConfigError("embeddings: no files given; name one for base, val or novel")
    read = {split: read_leo(where, split) for split, where in files.items()}
    check_disjoint(
        {split: set(rows.class_names) for split, (rows, _) in read.items()},
        ", ".join(str(where) for where in files.values()),
    )
    widths = {split: vectors.shape[1] for split, (_, vectors) in read.items()}
    if len(set(widths.values())) > 1:
        raise ShardError(f"embeddings: their sizes differ: {widths}; take files of one set")
    images = {split: [rows.keys, rows.class_names] for split, (rows, _) in read.items()}
    meta = FeatureMeta(
        data=digest({"embeddings of": images}),
        weights=None,
        preparation={"published": "LEO"},
        source={"name": "leo", "files": {split: where.name for split, where in files.items()}},
    )
    for rows, vectors in read.values():
        write_features(directory, rows, {VECTOR: vectors}, meta)
    return FeatureSet.open(directory)


def read_leo(where: Location, split: str) -> tuple[KeyedRows, F32]:
    """Return the rows and vectors (N, D) of one pickle. Classes are numbered by name."""
    content = load_pickle(where)
    if not isinstance(content, dict):
        return _by_class(where, split, noted_array(where, content, "the content"))
    for name in ("embeddings", "keys"):
        if name not in content:
            raise ShardError(f"{where}: a dict without {name!r}; {HELP}")
    vectors = _numbers(where, noted_array(where, content["embeddings"], "'embeddings'"), 2)
    keys = _strings(where, content["keys"])
    if len(keys) != len(vectors):
        raise ShardError(f"{where}: {len(keys)} keys for {len(vectors)} embeddings; fetch it again")
    twice = next((key for key, times in Counter(keys).items() if times > 1), None)
    if twice is not None:
        raise ShardError(f"{where}: key {twice!r} occurs twice; each image must occur once")
    class_names, labels = np.unique([_class_of(where, key) for key in keys], return_inverse=True)
    return KeyedRows(split, class_names.tolist(), labels.astype(np.int32), keys), vectors


def _by_class(where: Location, split: str, array: NDArray[Any]) -> tuple[KeyedRows, F32]:
    """Return the rows of an array (C, K, D); its classes and images have numbers only.

    Nothing but the vectors tells which images these are: keys begin with the digest of them all.
    """
    array = _numbers(where, array, 3)  # (C, K, D)
    classes, images, width = array.shape
    names = [f"{split}_class_{label:04d}" for label in range(classes)]
    vectors = array.reshape(-1, width)  # (C K, D)
    origin = column_digest(vectors)[:16]
    keys = [f"{origin}-{name}-{name}_{image:05d}" for name in names for image in range(images)]
    labels = np.arange(classes, dtype=np.int32).repeat(images)
    return KeyedRows(split, names, labels, keys), vectors


def _numbers(where: Location, array: NDArray[Any], axes: int) -> F32:
    if array.dtype.kind != "f" or array.ndim != axes or not array.size:
        raise ShardError(
            f"{where}: an array of type {array.dtype} and shape {array.shape} instead of "
            f"floats on {axes} axes; {HELP}"
        )
    return array.astype(np.float32)


def _strings(where: Location, value: Any) -> list[str]:
    listed: Sequence[Any] = value if isinstance(value, list) else []
    if not isinstance(value, list):
        listed = noted_array(where, value, "'keys'").ravel().tolist()
    keys = [item.decode("latin1") if isinstance(item, bytes) else item for item in listed]
    if not all(isinstance(key, str) for key in keys):
        raise ShardError(f"{where}: 'keys' holds other things than strings; {HELP}")
    return keys


def _class_of(where: Location, key: str) -> str:
    match = KEY.fullmatch(key)
    if match is None:
        raise ShardError(f"{where}: key {key!r} is not <number>-<class>-<class>_<image>")
    return match["name"]
