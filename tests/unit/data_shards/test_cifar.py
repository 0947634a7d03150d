"""CIFAR from its pickles and from archives of JPEG files, as a data set of ordinary classes."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_shards.cifar import Cifar, CifarConfig
from data_shards.location import Location
from data_shards.selection import SelectionConfig, training_part
from data_shards.writer import write_shards
from fsl.config import build
from fsl.errors import ConfigError, ShardError

NAMES = ["bird", "airplane"]


def batch(start: int, labels: list[int], key: str = "labels") -> dict[str, Any]:
    rng = np.random.default_rng(start)
    return {"data": rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8), key: labels}


def python_archive(root: Path, batches: dict[str, Any], name: str = "cifar-10") -> Path:
    path = root / f"{name}-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member, content in batches.items():
            payload = pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(f"batches/{member}")
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return path


def ten(root: Path) -> dict[str, Any]:
    batches = {f"data_batch_{n}": batch(n, [0, 1, 1]) for n in range(1, 6)}
    batches |= {"test_batch": batch(9, [1, 0]), "batches.meta": {"label_names": NAMES}}
    python_archive(root, batches)
    return batches


def test_pickles_become_training_and_held_out_images(tmp_path: Path) -> None:
    batches = ten(tmp_path)
    source = Cifar(CifarConfig(root=tmp_path))
    samples = source.samples()
    assert [s.split for s in samples] == ["base"] * 15 + ["held_out"] * 2
    assert [s.class_name for s in samples[:10]] == ["airplane"] * 10
    sample = next(s for s in samples if s.origin == "train/00003")  # first of the second batch
    with Image.open(io.BytesIO(source.read(sample))) as image:
        pixels = np.asarray(image).transpose(2, 0, 1).ravel()
    assert (pixels == batches["data_batch_2"]["data"][0]).all()


def test_classes_have_the_same_numbers_in_both_splits(tmp_path: Path) -> None:
    ten(tmp_path)
    written = write_shards(CifarConfig(root=tmp_path), Location.parse(tmp_path / "shards"))
    assert written.class_names == {"base": sorted(NAMES), "held_out": sorted(NAMES)}
    assert np.bincount(written.split("base").labels).tolist() == [10, 5]


def test_changed_labels_names_and_parts_change_the_fingerprint(tmp_path: Path) -> None:
    batches = ten(tmp_path)
    before = Cifar(CifarConfig(root=tmp_path)).fingerprint()
    last, test = batches["data_batch_5"], batches["test_batch"]
    changes: list[dict[str, Any]] = [
        {"data_batch_1": batches["data_batch_1"] | {"labels": [1, 0, 1]}},
        {"batches.meta": {"label_names": ["bird", "ship"]}},
        {
            "data_batch_5": {"data": last["data"][:2], "labels": last["labels"][:2]},
            "test_batch": {
                "data": np.concatenate([last["data"][2:], test["data"]]),
                "labels": last["labels"][2:] + test["labels"],
            },
        },
    ]
    for change in changes:
        python_archive(tmp_path, {**batches, **change})
        assert Cifar(CifarConfig(root=tmp_path)).fingerprint() != before, change.keys()


def test_fewer_training_images_are_the_first_of_each_class(tmp_path: Path) -> None:
    ten(tmp_path)
    every, some = (Cifar(CifarConfig(root=tmp_path, per_class=n)).samples() for n in (None, 2))
    assert [s for s in some if s.split == "base"] == [
        *[s for s in every if s.class_name == "airplane"][:2],
        *[s for s in every if s.class_name == "bird"][:2],
    ]
    assert sum(s.split == "held_out" for s in some) == 2


def test_superclasses_of_cifar_100_become_a_field(tmp_path: Path) -> None:
    labels = {"coarse_labels": [1, 0]}
    batches = {name: batch(1, [0, 1], "fine_labels") | labels for name in ("train", "test")}
    batches["test"] = batch(2, [0, 1], "fine_labels") | labels
    names = {"fine_label_names": ["oak", "cup"], "coarse_label_names": ["things", "trees"]}
    python_archive(tmp_path, {**batches, "meta": names}, "cifar-100")
    samples = Cifar(CifarConfig(root=tmp_path, classes=100)).samples()
    assert {s.class_name: s.extra["superclass"] for s in samples} == {
        "oak": "trees",
        "cup": "things",
    }


def test_archives_of_jpegs_are_passed_through(tmp_path: Path) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 200, 30)).save(sink, "JPEG")
    for part in ("train", "test"):
        with tarfile.open(tmp_path / f"cifar10_{part}_jpg.tar.gz", "w:gz") as tar:
            for name in NAMES:
                info = tarfile.TarInfo(f"{part}/{name}/0001.jpg")
                info.size = len(sink.getvalue())
                tar.addfile(info, io.BytesIO(sink.getvalue()))
    source = Cifar(CifarConfig(root=tmp_path))
    assert [(s.split, s.class_name) for s in source.samples()] == [
        ("base", "airplane"), ("base", "bird"), ("held_out", "airplane"), ("held_out", "bird"),
    ]  # fmt: skip
    assert source.read(source.samples()[0]) == sink.getvalue()
    before = source.fingerprint()
    os.utime(tmp_path / "cifar10_train_jpg.tar.gz", ns=(0, 1))
    assert source.fingerprint() != before


def test_a_folder_without_the_archive_is_told_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"root: .*none of cifar-100-python\.tar\.gz"):
        Cifar(CifarConfig(root=tmp_path, classes=100)).samples()


def test_a_missing_batch_and_a_damaged_archive_are_named(tmp_path: Path) -> None:
    path = python_archive(tmp_path, {"test_batch": batch(1, [0])})
    with pytest.raises(ShardError, match="data_batch_1 is missing"):
        Cifar(CifarConfig(root=tmp_path)).samples()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ShardError, match="not a readable archive"):
        Cifar(CifarConfig(root=tmp_path)).samples()


def test_other_pickles_are_not_cifar(tmp_path: Path) -> None:
    batches = ten(tmp_path)
    python_archive(tmp_path, {**batches, "batches.meta": {"names": NAMES}})
    with pytest.raises(ShardError, match="not an archive of CIFAR"):
        Cifar(CifarConfig(root=tmp_path)).samples()
    python_archive(tmp_path, {**batches, "batches.meta": {"label_names": NAMES[:1]}})
    with pytest.raises(ShardError, match="1 names for more classes"):
        Cifar(CifarConfig(root=tmp_path)).samples()


def test_a_published_long_tail_has_the_images_that_the_published_rule_draws(tmp_path: Path) -> None:
    """The rule knows the images by their place in the archive; shards are in another order."""
    batches = ten(tmp_path)
    names = [NAMES[label] for n in range(1, 6) for label in batches[f"data_batch_{n}"]["labels"]]
    base = write_shards(CifarConfig(root=tmp_path), Location.parse(tmp_path / "set")).split("base")
    settings = {"long_tail": {"ratio": 2, "published": True}}
    part = training_part(base, build(SelectionConfig, settings))
    generator, expected = np.random.RandomState(0), set()
    for name, count in (("airplane", 5), ("bird", 2)):
        own = [number for number, other in enumerate(names) if other == name]
        expected |= {f"train/{number:05d}" for number in generator.permutation(own)[:count]}
    assert set(part.extra("origin")) == expected
    aside = build(SelectionConfig, {**settings, "set_aside": 0.2})
    with pytest.raises(ConfigError, match="use neither where nor set_aside"):
        training_part(base, aside)
    few = CifarConfig(root=tmp_path, per_class=4)
    fewer = write_shards(few, Location.parse(tmp_path / "few")).split("base")
    with pytest.raises(ConfigError, match="without per_class"):
        training_part(fewer, build(SelectionConfig, settings))
