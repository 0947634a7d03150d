"""Splits: the lists people have, and classes or images in two splits."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from data_shards.splits import (
    SharedImages,
    check_disjoint,
    read_class_list,
    read_split_file,
    split_by_ratio,
)
from fsl.errors import ConfigError, ShardError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "# comment\nant\n\n bee \n"),
        ("list.json", '["ant", "bee"]'),
        ("pairs.json", '[["insects", "ant"], ["insects", "bee"]]'),
        ("easyfsl.json", '{"class_names": ["ant", "bee"], "class_roots": ["a", "b"]}'),
    ],
)
def test_class_lists_come_in_four_forms(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_class_list(tmp_path / name) == ["ant", "bee"]


def test_one_file_may_hold_all_splits(tmp_path: Path) -> None:
    path = tmp_path / "dtd_splits.json"
    path.write_text(json.dumps({"train": ["a"], "valid": ["b"], "test": ["c"]}))
    assert read_split_file(path) == {"base": ["a"], "val": ["b"], "novel": ["c"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[", "not valid JSON"),
        ("a.json", "[]", "expected a list of class names"),
        ("a.json", "[1]", "1 is not a class name"),
        ("a.txt", "ant\nant\n", "'ant' is listed twice"),
    ],
)
def test_a_broken_list_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{name}: .*{message}"):
        read_class_list(tmp_path / name)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt: cannot be read .*No such file"):
        read_class_list(tmp_path / "none.txt")


def test_ratios_deal_out_every_class_once_by_the_seed() -> None:
    classes = [f"c{i}" for i in range(100)]
    ratios = {"train": 64, "val": 16, "test": 20}
    dealt = split_by_ratio(classes, ratios, seed=3)
    assert {split: len(names) for split, names in dealt.items()} == {
        "base": 64, "val": 16, "novel": 20,
    }  # fmt: skip
    assert sorted(name for names in dealt.values() for name in names) == sorted(classes)
    assert dealt == split_by_ratio(classes[::-1], ratios, seed=3)
    assert dealt != split_by_ratio(classes, ratios, seed=4)


def test_a_share_too_small_for_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="gets none of the 5 classes"):
        split_by_ratio(list("abcde"), {"base": 0.9, "val": 0.01, "novel": 0.09}, seed=0)


def test_a_class_in_two_splits_is_refused() -> None:
    with pytest.raises(ConfigError, match="here: class 'b' is in 'base' and in 'novel'"):
        check_disjoint({"base": ["a", "b"], "novel": ["b"]}, "here")


def test_an_image_in_two_splits_is_named_with_both_places() -> None:
    shared = SharedImages()
    for split, origin in (("base", "a/1"), ("base", "a/2"), ("novel", "z/9")):
        shared.add(sha256(b"same").digest(), split, origin)
    with pytest.raises(ShardError, match=r"a/1 \(base\) and z/9 \(novel\)"):
        shared.refuse()


def test_the_same_image_twice_in_one_split_is_no_fault() -> None:
    shared = SharedImages()
    shared.add(sha256(b"same").digest(), "base", "a/1")
    shared.add(sha256(b"same").digest(), "base", "a/2")
    shared.refuse()
