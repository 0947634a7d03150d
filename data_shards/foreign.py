"""Indexes tars that others wrote, by webdataset's naming conventions; the tars stay as they are.

The key is a member's path up to the first dot of its base name, the field is the rest. The class
comes from a `.cls` or `.txt` member or from "label" (or "class") in a `.json` one. A sub-directory
is a split ("train" is our base, "test" our novel); tars directly in the root form one split that
the caller names.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from data_shards.decode import image_size
from data_shards.location import Location
from data_shards.manifest import INDEX_NAME, ShardFile, ShardSet, split_order
from data_shards.manifest_builder import ManifestBuilder
from data_shards.splits import ALIASES, HELD_OUT
from data_shards.tar_scan import Member, scan_tar
from fsl.errors import ConfigError, ShardError

logger = logging.getLogger(__name__)

IMAGE_FIELDS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm")
LABEL_FIELDS = ("cls", "json", "txt")
LABEL_KEYS = ("label", "class", "class_name")


class ForeignSample(NamedTuple):
    """A sample found in a tar, its class still as text."""

    key: str
    class_name: str
    image: Member
    ext: str
    crc32: int
    width: int
    height: int


def index_foreign(root: Location, split: str = "base") -> ShardSet:
    """Write an index beside tars that others wrote and return the shard set.

    Args:
        root: local directory with `*.tar`, or with one sub-directory of `*.tar` per split.
        split: name of the split when the tars lie directly in `root` ("train" is base again).

    Raises:
        ConfigError: there is no such directory.
        ShardError: an index is there already, no tars, or a tar that is damaged or breaks the
            conventions: members of a sample apart, a key twice, no image, no label.
    """
    if root.local is None:
        raise ShardError(f"{root}: tars are indexed on a local disk; download them first")
    if not root.local.is_dir():
        raise ConfigError(f"{root}: no such directory; name the one that holds the tars")
    if (root / INDEX_NAME).exists():
        raise ShardError(f"{root / INDEX_NAME}: exists already; move it away to index again")
    tars = _find_tars(root.local, split)
    found = {
        name: {path: read_foreign_tar(path, str(path.relative_to(root.local))) for path in paths}
        for name, paths in tars.items()
    }
    classes = {
        name: _in_label_order({sample.class_name for tar in shards.values() for sample in tar})
        for name, shards in found.items()
    }
    _warn_of_shared_classes(root, classes)
    builder = ManifestBuilder(classes, None, {"name": "foreign"}, cls_holds="name")
    files = []
    for name, shards in found.items():
        labels = {text: label for label, text in enumerate(classes[name])}
        for path, samples in shards.items():
            shown = path.relative_to(root.local).as_posix()
            files.append(
                _add_shard(builder, path, shown, split=name, samples=samples, labels=labels)
            )
    return builder.finish(root, files)


def read_foreign_tar(path: Path, shown: str) -> list[ForeignSample]:
    """Return the samples of one tar; raises ShardError at the first fault."""
    members = scan_tar(path, shown)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        samples = [_sample(key, fields, data, shown) for key, fields in group(members, shown)]
    if not samples:
        raise ShardError(f"{shown}: a tar without samples; remove it or write it again")
    return samples


def group(members: Sequence[Member], shown: str) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield key and members by field of each sample; raises ShardError on a broken convention."""
    done: set[str] = set()
    key: str | None = None
    fields: dict[str, Member] = {}
    for member in members:
        found = split_name(member.name)
        if found is None:
            continue
        if found[0] != key:
            if key is not None:
                done.add(key)
                yield key, fields
            key, fields = found[0], {}
            if key in done:
                raise ShardError(
                    f"{shown}: sample {key!r} at byte {member.offset}: occurred before: its "
                    "members are apart, or the key is used twice; write the tar sorted by name"
                )
        if found[1] in fields:
            raise ShardError(
                f"{shown}: sample {key!r} at byte {member.offset}: a second member "
                f"{found[1]!r}; keys must be unique"
            )
        fields[found[1]] = member
    if key is not None:
        yield key, fields


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and lower-cased field of a member's name; None for what webdataset skips."""
    directory, slash, base = name.rpartition("/")
    stem, dot, field = base.partition(".")
    if not dot or not stem or (base.startswith("__") and base.endswith("__")):
        return None
    return directory + slash + stem, field.lower()


def label_text(fields: Mapping[str, Member], data: mmap.mmap, where: str) -> str:
    """Return the class of a sample as its `.cls`, `.json` or `.txt` member states it."""
    for field in LABEL_FIELDS:
        if field not in fields:
            continue
        member = fields[field]
        raw = data[member.offset : member.offset + member.size]
        try:
            text = raw.decode().strip()
            content = json.loads(text) if field == "json" else {"label": text}
        except ValueError:
            raise ShardError(f"{where}: its .{field} member is not readable text") from None
        if isinstance(content, Mapping):
            stated = [content[name] for name in LABEL_KEYS if content.get(name) not in (None, "")]
            if stated and isinstance(stated[0], str | int):
                return str(stated[0])
    raise ShardError(
        f'{where}: no label; each sample needs a .cls member, or a .json one with "label" '
        f"(it has: {', '.join(sorted(fields))})"
    )


def _sample(key: str, fields: Mapping[str, Member], data: mmap.mmap, shown: str) -> ForeignSample:
    first = min(member.offset for member in fields.values())
    where = f"{shown}: sample {key!r} at byte {first}"
    images = [field for field in fields if field in IMAGE_FIELDS]
    if len(images) != 1:
        what = f"{len(images)} images ({', '.join(images)})" if images else "no image"
        odd = sorted(f for f in fields if f.rpartition(".")[2] in IMAGE_FIELDS and "." in f)
        dots = f"; a dot in a file name makes {odd[0]!r} the field" if odd else ""
        raise ShardError(f"{where}: {what}, one is needed (it has: {', '.join(fields)}){dots}")
    member = fields[images[0]]
    content = data[member.offset : member.offset + member.size]
    width, height = image_size(content, f"{shown}: sample {key!r} at byte {member.offset}")
    label = label_text(fields, data, where)
    return ForeignSample(key, label, member, images[0], zlib.crc32(content), width, height)


def _find_tars(root: Path, split: str) -> dict[str, list[Path]]:
    """Return the tars of each split, splits in the customary order."""
    direct = sorted(root.glob("*.tar"))
    below: dict[str, list[Path]] = {}
    for folder in sorted(root.iterdir()):
        tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
        name = ALIASES.get(folder.name.lower(), folder.name)
        if tars and name in below:
            raise ShardError(f"{root}: two directories for split {name!r}; keep one")
        if tars:
            below[name] = tars
    if direct and below:
        raise ShardError(
            f"{root}: tars both here and in {', '.join(below)}; use one directory per split"
        )
    if not direct and not below:
        raise ShardError(f"{root}: no *.tar here or one directory below; name their directory")
    alone = ALIASES.get(split.lower(), split)
    return {alone: direct} if direct else {name: below[name] for name in split_order(list(below))}


def _warn_of_shared_classes(root: Location, classes: Mapping[str, Sequence[str]]) -> None:
    """Warn of splits with the same class names; `held_out` has those of `base` by design."""
    apart = {split: set(names) for split, names in classes.items() if split != HELD_OUT}
    for (split, names), (other, more) in combinations(apart.items(), 2):
        shared = sorted(names & more)
        if shared:
            many = f" and {len(shared) - 1} more are" if len(shared) > 1 else " is"
            logger.warning(
                "%s: class %r%s in %r and in %r; if numbers restart in each split, these are other "
                "classes: write their names into the labels, else results on %r mean nothing",
                root, shared[0], many, split, other, other,
            )  # fmt: skip


def _in_label_order(names: set[str]) -> list[str]:
    """Return class names sorted, as numbers if all are."""
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _add_shard(
    builder: ManifestBuilder,
    path: Path,
    shown: str,
    *,
    split: str,
    samples: Sequence[ForeignSample],
    labels: Mapping[str, int],
) -> ShardFile:
    for sample in samples:
        builder.add(
            sample.key,
            split,
            labels[sample.class_name],
            shard_name=shown,
            offset=sample.image.offset,
            size=sample.image.size,
            ext=sample.ext,
            crc32=sample.crc32,
            width=sample.width,
            height=sample.height,
        )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return ShardFile(shown, path.stat().st_size, len(samples), digest)
