"""Sources: which samples they find, which bytes they give, which mistakes they explain."""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_shards.omniglot import Omniglot, OmniglotConfig
from data_shards.sources import SOURCES, AnySourceConfig, Source, build_source, classes_of
from fsl.config import Section, build
from fsl.errors import ConfigError, ShardError


class Recipe(Section):
    source: AnySourceConfig


def source(**settings: Any) -> Source[Any]:
    return build_source(build(Recipe, {"source": settings}).source)


def encoded(colour: int = 0, size: tuple[int, int] = (8, 8), kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, (colour, 255 - colour, 7)).save(sink, kind)
    return sink.getvalue()


def plant(root: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(number))


def found(some: Source[Any]) -> set[tuple[str, str, str]]:
    return {(s.split, s.class_name, s.origin) for s in some.samples()}


def test_all_built_in_sources_are_registered() -> None:
    assert {"csv", "folder", "omniglot", "strokes"} <= set(SOURCES.names())


def test_an_unknown_source_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'strokes'"):
        source(name="stroke")


def test_a_misspelt_setting_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"source\.sise: unknown key; did you mean 'size'"):
        source(name="strokes", sise=28)


def test_folder_takes_the_split_from_the_folders_above(tmp_path: Path) -> None:
    plant(tmp_path, ["train/ant/1.png", "train/ant/x/2.JPEG", "val/bee/1.jpg", "test/cow/1.png"])
    plant(tmp_path, ["train/ant/.hidden.png", "train/ant/readme.txt"])
    some = source(name="folder", root=str(tmp_path))
    assert found(some) == {
        ("base", "ant", "train/ant/1.png"),
        ("base", "ant", "train/ant/x/2.JPEG"),
        ("val", "bee", "val/bee/1.jpg"),
        ("novel", "cow", "test/cow/1.png"),
    }
    first = some.samples()[0]
    assert some.read(first) == (tmp_path / first.origin).read_bytes()


def test_folder_takes_the_split_from_lists_or_files(tmp_path: Path) -> None:
    images = tmp_path / "data"
    plant(images, ["ant/1.png", "bee/1.png", "cow/1.png", "unused/1.png"])
    (tmp_path / "test.txt").write_text("cow\n")
    (tmp_path / "all.json").write_text(json.dumps({"train": ["ant"], "test": ["bee", "cow"]}))
    by_lists = {"train": ["ant"], "val": ["bee"], "test": str(tmp_path / "test.txt")}
    classes = classes_of(source(name="folder", root=str(images), splits=by_lists).samples())
    assert classes == {"base": ["ant"], "val": ["bee"], "novel": ["cow"]}
    one_file = source(name="folder", root=str(images), splits=str(tmp_path / "all.json"))
    assert classes_of(one_file.samples()) == {"base": ["ant"], "novel": ["bee", "cow"]}


def test_folder_can_deal_the_classes_out(tmp_path: Path) -> None:
    plant(tmp_path, [f"class{i}/1.png" for i in range(10)])
    some = source(name="folder", root=str(tmp_path), ratios={"base": 6, "val": 2, "novel": 2})
    assert Counter(s.split for s in some.samples()) == {"base": 6, "val": 2, "novel": 2}


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ([], {}, "holds no folders"),
        (["ant/1.png"], {}, "'ant' is none of base, val, novel.*`splits` or `ratios`"),
        (["train/ant/1.txt"], {}, r"train/ant: no images \(.jpg, .jpeg, .png\) of class 'ant'"),
        (["train/ant/1.png", "test/ant/2.png"], {}, "'ant' is in 'base' and in 'novel'"),
        (["train/a/1.png", "base/b/1.png"], {}, "split 'base' is given twice, once as 'train'"),
        (["ant/1.png"], {"splits": {"base": ["amt"]}}, "'amt' of 'base' has no.*mean 'ant'"),
        (["ant/1.png"], {"splits": {"bass": ["ant"]}}, "split 'bass' is not known"),
        (["a/1.png"], {"splits": {"base": ["a"]}, "ratios": {"base": 1}}, "not both"),
        (["a/1.png", "b/1.png"], {"splits": {"base": ["a", "b"], "val": ["a"]}}, "'a' is in 'ba"),
    ],
)
def test_folder_explains_what_is_wrong(
    tmp_path: Path, files: list[str], settings: dict[str, Any], message: str
) -> None:
    plant(tmp_path, files)
    with pytest.raises(ConfigError, match=message):
        source(name="folder", root=str(tmp_path), **settings).samples()


def test_folder_names_a_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"root: .*nowhere: cannot be read: No such file"):
        source(name="folder", root=str(tmp_path / "nowhere")).samples()


def test_fingerprint_follows_the_files_and_not_their_place(tmp_path: Path) -> None:
    plant(tmp_path / "a", ["train/ant/1.png", "train/bee/1.png"])
    before = source(name="folder", root=str(tmp_path / "a")).fingerprint()
    (tmp_path / "a").rename(tmp_path / "b")
    assert source(name="folder", root=str(tmp_path / "b")).fingerprint() == before
    plant(tmp_path / "b", ["train/bee/2.png"])
    assert source(name="folder", root=str(tmp_path / "b")).fingerprint() != before


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_resize_shrinks_the_shorter_edge_and_never_enlarges(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "train" / "ant"
    folder.mkdir(parents=True)
    suffix = kind.lower()
    (folder / f"large.{suffix}").write_bytes(encoded(size=(60, 30), kind=kind))
    (folder / f"small.{suffix}").write_bytes(encoded(size=(10, 40), kind=kind))
    some = source(name="folder", root=str(tmp_path), resize=15)
    large, small = (some.read(sample) for sample in some.samples())
    with Image.open(io.BytesIO(large)) as image:
        assert (image.size, image.format) == ((30, 15), kind)
    assert small == (folder / f"small.{suffix}").read_bytes()


def test_omniglot_has_the_published_classes_once(data_folder: Path) -> None:
    some = source(name="omniglot", root=str(data_folder / "omniglot"), size=28)
    samples = some.samples()
    counts = {split: len(names) for split, names in classes_of(samples).items()}
    assert counts == {"base": 137, "val": 22, "novel": 83}
    assert len(samples) == 4840
    assert set(Counter(s.class_name for s in samples).values()) == {20}
    alphabets = {s.extra["alphabet"] for s in samples if s.split == "novel"}
    assert alphabets == {"Balinese", "Sanskrit", "Tagalog"}
    assert sum(s.class_name.startswith("Greek/") for s in samples) == 24 * 20
    with Image.open(io.BytesIO(some.read(samples[0]))) as image:
        assert (image.size, image.mode) == ((28, 28), "L")
        assert np.asarray(image).mean() < 60  # little ink, white on black


def test_omniglot_without_a_size_passes_the_files_through(data_folder: Path) -> None:
    root = data_folder / "omniglot"
    some = source(name="omniglot", root=str(root))
    sample = next(s for s in some.samples() if s.extra["alphabet"] == "Korean")
    with zipfile.ZipFile(root / "images_background_small1.zip") as archive:
        assert some.read(sample) == archive.read(f"images_background_small1/{sample.origin}")


def omniglot_zip(path: Path, images: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in images.items():
            archive.writestr(f"{path.stem}/{name}", content)


def test_full_omniglot_evaluates_on_its_evaluation_set(tmp_path: Path) -> None:
    background = {f"B{i:02d}/character01/1_01.png": encoded(i) for i in range(12)}
    omniglot_zip(tmp_path / "images_background.zip", background)
    omniglot_zip(tmp_path / "images_evaluation.zip", {"E/character01/2_01.png": encoded(99)})
    classes = classes_of(source(name="omniglot", root=str(tmp_path)).samples())
    assert classes["val"] == ["B05/character01", "B11/character01"]
    assert classes["novel"] == ["E/character01"]
    assert len(classes["base"]) == 10


def test_unpacked_omniglot_is_the_same(tmp_path: Path) -> None:
    for name, alphabet in (("images_background", "A"), ("images_evaluation", "E")):
        omniglot_zip(tmp_path / f"{name}.zip", {f"{alphabet}/character01/1_01.png": encoded()})
    split = {"base": ["A"], "novel": ["E"]}
    packed = source(name="omniglot", root=str(tmp_path), **split)
    for path in tmp_path.glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "unpacked")
    unpacked = source(name="omniglot", root=str(tmp_path / "unpacked"), **split)
    assert found(packed) == found(unpacked)
    assert packed.fingerprint() == unpacked.fingerprint()
    assert [packed.read(s) for s in packed.samples()] == [
        unpacked.read(s) for s in unpacked.samples()
    ]


def test_omniglot_zips_that_disagree_are_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / f"images_background_small{number}.zip"
        omniglot_zip(path, {"Greek/character01/1_01.png": encoded(number)})
    config = OmniglotConfig(root=tmp_path, base=["Greek"])
    with pytest.raises(ShardError, match=r"1_01.png differs between .*small1.zip and .*small2"):
        Omniglot(config).samples()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "default split only with both"),
        ({"base": ["Greak"]}, "base: no alphabet 'Greak'; did you mean 'Greek'"),
        ({"base": ["Greek"], "novel": ["Greek"]}, "'Greek' is in 'base' and in 'novel'"),
    ],
)
def test_omniglot_explains_a_wrong_split(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    path = tmp_path / "images_background_small1.zip"
    omniglot_zip(path, {"Greek/character01/1_01.png": encoded()})
    with pytest.raises(ConfigError, match=message):
        source(name="omniglot", root=str(tmp_path), **settings).samples()


def test_omniglot_says_which_files_it_looks_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of images_background\.zip, "):
        source(name="omniglot", root=str(tmp_path)).samples()
    (tmp_path / "images_background.zip").write_bytes(b"no zip")
    with pytest.raises(ShardError, match=r"images_background\.zip: not a readable zip"):
        source(name="omniglot", root=str(tmp_path)).samples()
