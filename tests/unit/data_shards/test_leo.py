"""Published embeddings: Python 2's pickles are read, and nothing in a pickle is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.features import FeatureSet
from data_shards.leo import find_leo, import_leo, read_leo
from data_shards.location import Location
from data_shards.safe_pickle import NotedArray, load_pickle
from fsl.errors import ConfigError, ShardError
from tests.unit.data_shards.python_2_pickles import py2_array, py2_dict, py2_list

EMBEDDINGS = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
KEYS = [f"{i}-n0{c}-n0{c}_{i:04d}" for i, c in enumerate((3, 1, 1, 3, 2, 1))]


def python_2_file(protocol: int) -> bytes:
    return py2_dict(
        {
            "keys": py2_list(KEYS, protocol),
            "embeddings": py2_array(EMBEDDINGS, protocol),
            "labels": py2_array(np.array([b"n03", b"n01"]), protocol),
        },
        protocol,
    )


def saved(tmp_path: Path, content: bytes, name: str = "train_embeddings.pkl") -> Location:
    (tmp_path / name).write_bytes(content)
    return Location.parse(tmp_path / name)


@pytest.mark.parametrize("protocol", [0, 2])
def test_pickles_of_python_2_are_read(tmp_path: Path, protocol: int) -> None:
    content = python_2_file(protocol)
    plain = pickle.loads(content, encoding="latin1")  # the assembled file is a real one
    assert plain["keys"] == KEYS
    assert np.array_equal(plain["embeddings"], EMBEDDINGS)
    rows, vectors = read_leo(saved(tmp_path, content), "base")
    assert np.array_equal(vectors, EMBEDDINGS)
    assert rows.keys == KEYS
    assert rows.class_names == ["n01", "n02", "n03"]
    assert rows.labels.tolist() == [2, 0, 0, 2, 1, 0]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [list, np.array, lambda k: np.array(k, "S"),
                                  lambda k: np.array(k, object)])  # fmt: skip
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_pickles_of_python_3_are_read(
    tmp_path: Path, protocol: int, kind: Callable[..., Any], layout: Callable[..., Any]
) -> None:
    tree = {"embeddings": layout(EMBEDDINGS.astype(">f8")), "keys": kind(KEYS), "x": np.float64(3)}
    rows, vectors = read_leo(saved(tmp_path, pickle.dumps(tree, protocol)), "val")
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, EMBEDDINGS)
    assert rows.keys == KEYS


@pytest.mark.parametrize("protocol", [0, 2])
def test_an_array_by_class_is_read(tmp_path: Path, protocol: int) -> None:
    array = EMBEDDINGS.reshape(2, 3, 5)
    begin = b"" if protocol == 0 else b"\x80\x02"
    where = saved(tmp_path, begin + py2_array(array, protocol) + b".")
    rows, vectors = read_leo(where, "novel")
    assert np.array_equal(vectors, EMBEDDINGS)
    assert rows.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert rows.class_names == ["novel_class_0000", "novel_class_0001"]
    assert len(set(rows.keys)) == 6


def test_scalars_keep_their_values(tmp_path: Path) -> None:
    tree = [np.float32(0.5), np.int64(-7), np.bool_(True), np.str_("ä"), np.bytes_(b"z"), {1: [2]}]
    for protocol in (0, 2, 5):
        assert load_pickle(saved(tmp_path, pickle.dumps(tree, protocol))) == [
            0.5, -7, True, "ä", b"z", {1: [2]},
        ]  # fmt: skip


class Touch:
    """Creates a file when unpickled by the ordinary reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "executed"
    tree = {"embeddings": EMBEDDINGS, "keys": KEYS, "more": Touch(mark)}
    content = pickle.dumps(tree, protocol)
    pickle.loads(content)
    assert mark.exists()  # it does work elsewhere
    mark.unlink()
    with pytest.raises(ShardError, match=r"train_embeddings.pkl: the pickle asks for .*nothing of"):
        read_leo(saved(tmp_path, content), "base")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (eval, ("1",), "builtins.eval"),
        (getattr, ("", "join"), "builtins.getattr"),
        (np.load, ("x",), r"numpy\.load"),
        (np.array, ([1],), r"numpy\..*array"),
    ],
)
def test_the_refused_name_is_told(tmp_path: Path, function: Any, arguments: Any, name: str) -> None:
    content = pickle.dumps(Call(function, *arguments), 4)
    with pytest.raises(ShardError, match=f"asks for {name}"):
        load_pickle(saved(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [
        b"cposix\nsystem\n(S'touch executed'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"(S'touch executed'\nios\nsystem\n.",  # INST
        b"\x80\x02cnumpy\ndtype.mro\n)R.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
    ],
)
def test_hand_made_attacks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match="the pickle asks for"):
        load_pickle(saved(tmp_path, content))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray\n(I9\ntR.",  # ndarray itself is never called
        b"cnumpy\ndtype\n(N}S'__call__'\nI1\nstb.",  # a function gets a state
        b"cnumpy\ndtype\n}S'_function'\nI1\nsb.",
        b"\x80\x02cnumpy\ndtype\n)\x81.",  # NEWOBJ of what is no class
        b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.",
    ],
)
def test_permitted_names_do_no_more_than_arrays_need(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ShardError, match="not a usable pickle of arrays"):
        load_pickle(saved(tmp_path, content))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content[:-20], "not a usable pickle of arrays"),
        (lambda content: b"", "not a usable pickle of arrays"),
        (lambda content: b"hello", "not a usable pickle of arrays"),
        (lambda content: content.replace(b"f4", b"f8"), "120 bytes for an array of shape"),
        (lambda content: content.replace(b"f4", b"V4"), "elements of type 'V4'"),
        (lambda content: content.replace(b"f4", b"O8"), "an array of 30 objects without them"),
        (lambda content: content.replace(b"f4", b"i4"), "type int32 and shape .6, 5. instead of"),
        (lambda content: content.replace(b"J\5\0\0\0", b"J\6\0\0\0"), "120 bytes for an array"),
        (lambda content: content.replace(b"J\5\0\0\0", b"J\xff\xff\xff\xff"), "shape .6, -1."),
        (lambda content: content.replace(b"embeddings", b"embeddingz"), "without 'embeddings'"),
        (lambda content: content.replace(b"0-n03-n03", b"0-n03-n04"), "'0-n03-n04_0000'"),
        (
            lambda content: content.replace(b"1-n01-n01_0001", b"2-n01-n01_0002"),
            "'2-n01-n01_0002' occurs twice",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, edit: Any, message: str) -> None:
    content = edit(python_2_file(2))
    with pytest.raises(ShardError, match=rf"train_embeddings.pkl: .*{message}"):
        read_leo(saved(tmp_path, content), "base")


def test_other_contents_are_named(tmp_path: Path) -> None:
    for tree, message in (
        ({"embeddings": EMBEDDINGS, "keys": KEYS[:4]}, "4 keys for 6 embeddings"),
        ({"embeddings": EMBEDDINGS, "keys": [1, 2]}, "other things than strings"),
        ({"embeddings": [1.0], "keys": KEYS}, "'embeddings' is no array but list"),
        ("text", "the content is no array but str"),
    ):
        with pytest.raises(ShardError, match=message):
            read_leo(saved(tmp_path, pickle.dumps(tree, 2)), "base")


def test_a_forged_array_is_not_built() -> None:
    forged = NotedArray()
    forged.__setstate__((1, (2,), "f4", False, b"12345678"))
    with pytest.raises(pickle.UnpicklingError, match="no known shape"):
        forged.array()


def three_files(folder: Path, shared_class: bool = False) -> None:
    for number, name in enumerate(("train", "val", "test")):
        keys = [key.replace("n0", f"n{0 if shared_class else number}") for key in KEYS]
        content = pickle.dumps({"embeddings": EMBEDDINGS + number, "keys": keys}, 2)
        saved(folder, content, f"{name}_embeddings.pkl")


def test_the_published_files_become_feature_tables(tmp_path: Path) -> None:
    three_files(tmp_path)
    target = Location.parse(tmp_path / "features")
    feature_set = import_leo(find_leo(Location.parse(tmp_path)), target)
    assert feature_set.splits == ["base", "val", "novel"]
    novel = feature_set.split("novel")
    assert np.array_equal(novel.vectors(), EMBEDDINGS + 2)
    assert novel.class_names == ["n21", "n22", "n23"]
    assert novel.class_rows().counts.tolist() == [3, 1, 2]
    assert novel.key(1) == "1-n21-n21_0001"
    again = import_leo(find_leo(Location.parse(tmp_path)), target)
    assert again.digest == FeatureSet.open(target).digest == feature_set.digest


def test_wrong_folders_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of train_embeddings.pkl, val_embeddings.pkl"):
        find_leo(Location.parse(tmp_path))
    three_files(tmp_path, shared_class=True)
    with pytest.raises(ConfigError, match=r"class 'n0.' is in 'base' and in 'val'"):
        import_leo(find_leo(Location.parse(tmp_path)), Location.parse(tmp_path / "features"))
    with pytest.raises(ConfigError, match="no files given"):
        import_leo({}, Location.parse(tmp_path / "features"))
