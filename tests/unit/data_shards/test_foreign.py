"""Tars that others wrote: webdataset's conventions, and every way to break them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from data_shards.foreign import index_foreign, split_name
from data_shards.location import Location
from data_shards.reader import Reader
from data_shards.tar_scan import scan_tar
from fsl.errors import ConfigError, ShardError

Files = Sequence[tuple[str, bytes]]


def write(path: Path, files: Files, kind: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def image() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 5), (9, 8, 7)).save(stream, "PNG")
    return stream.getvalue()


def good(image: bytes, count: int = 6) -> list[tuple[str, bytes]]:
    files = []
    for n in range(count):
        files += [(f"s{n:03d}.png", image), (f"s{n:03d}.cls", str(10 - n % 3).encode())]
    return files


def test_sub_directories_are_splits_and_classes_are_numbered_in_order(
    tmp_path: Path, image: bytes
) -> None:
    write(tmp_path / "train/a.tar", good(image))
    write(tmp_path / "test/b.tar", [("x.PNG", image), ("x.json", b'{"label": "owl"}')])
    shard_set = index_foreign(Location.parse(tmp_path))
    assert shard_set.class_names == {"base": ["8", "9", "10"], "novel": ["owl"]}
    split = shard_set.split("base")
    assert split.labels.tolist() == [2, 1, 0, 2, 1, 0]
    assert split.image_sizes.tolist() == [[6, 5]] * 6
    assert Reader(split).read([5, 0]) == [image, image]
    assert shard_set.split("novel").keys.to_pylist() == ["x"]
    assert shard_set.split("novel").extensions == ["png"]


def test_tars_in_the_root_are_one_split(tmp_path: Path, image: bytes) -> None:
    write(tmp_path / "a.tar", good(image))
    assert index_foreign(Location.parse(tmp_path), split="val").splits == ["val"]
    with pytest.raises(ShardError, match="exists already"):
        index_foreign(Location.parse(tmp_path))
    write(tmp_path / "b" / "a.tar", good(image))
    assert index_foreign(Location.parse(tmp_path / "b"), split="train").splits == ["base"]


def test_class_names_in_two_splits_are_warned_of(
    tmp_path: Path, image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "held_out"):
        write(tmp_path / "a" / split / "a.tar", good(image))
        write(tmp_path / "b" / split / "a.tar", good(image))
    index_foreign(Location.parse(tmp_path / "a"))
    assert not caplog.messages
    write(tmp_path / "b" / "test" / "a.tar", good(image))
    index_foreign(Location.parse(tmp_path / "b"))
    (line,) = caplog.messages
    assert "class '10' and 2 more are in 'base' and in 'novel'" in line


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read(tmp_path: Path, image: bytes, kind: int) -> None:
    key = "d" * 120 + "/" + "k" * 150
    write(tmp_path / "a.tar", [(f"{key}.png", image), (f"{key}.cls", b"3")], kind)
    shard_set = index_foreign(Location.parse(tmp_path))
    assert shard_set.split("base").key(0) == key
    assert Reader(shard_set.split("base")).read([0]) == [image]


def test_ustar_prefixes_directories_and_big_sizes_agree_with_tarfile(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, size in (("p" * 90 + "/" + "n" * 90, 1000), ("plain", 0), ("last", 512)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    assert [tuple(member) for member in scan_tar(path, "a.tar")] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.c/img.001.jpg", ("a/b.c/img", "001.jpg")),
        ("img.JPG", ("img", "jpg")),
        ("noext", None),
        (".hidden.png", None),
        ("__index__.json", ("__index__", "json")),
        ("__meta__", None),
    ],
)
def test_names_split_as_webdataset_splits_them(name: str, expected: tuple[str, str] | None) -> None:
    assert split_name(name) == expected


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_end(content: bytes) -> bytes:
    return content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512)


def zeroed(content: bytes) -> bytes:
    return content[:2048] + bytes(3072) + content[5120:]


def noise(content: bytes) -> bytes:
    return content[:2048] + bytes(range(1, 256)) * 4 + content[3068:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"a.tar: byte \d+, after 's00\d.(png|cls)' \(\d+ members\): .* truncated"),
        (without_end, r"a.tar: byte \d+, after 's005.cls' \(12 members\): .* truncated"),
        (zeroed, r"a.tar: byte 2048: zeros .* \d+ bytes remain .*zeroed"),
        (noise, r"a.tar: byte 2048, after 's000.cls' .*checksum does not fit"),
        (lambda content: content * 2, "or two tars were joined"),
        (lambda content: content + bytes(100_000), "more zeros than a writer pads with"),
        (lambda _: b"", r"a.tar: the shard is empty \(0 bytes\)"),
        (lambda content: b"\x1f\x8b" + content, "a compressed tar has no byte offsets"),
        (lambda _: b"no tar at all " * 100, "byte 0, after no member: not a tar header"),
    ],
)
def test_damaged_tars_are_refused(
    tmp_path: Path, image: bytes, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = write(tmp_path / "a.tar", good(image))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ShardError, match=message):
        index_foreign(Location.parse(tmp_path))
    assert not (tmp_path / "index.parquet").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png", "b.png", "a.cls", "b.cls"], r"sample 'a' at byte \d+: no label"),
        (["a.png", "a.cls", "b.png", "b.cls", "a.json"], "'a' .* occurred before: its members are"),
        (["a.png", "a.png", "a.cls"], "sample 'a' at byte .*: a second member 'png'"),
        (["a.png"], "sample 'a' at byte 512: no label"),
        (["a.cls"], "sample 'a' at byte 512: no image"),
        (["a.1.png", "a.cls"], "no image.*a dot in a file name makes '1.png' the field"),
        (["a.png", "a.jpg", "a.cls"], r"2 images \(png, jpg\), one is needed"),
        (["noext"], "a.tar: a tar without samples"),
    ],
)
def test_broken_conventions_are_refused(
    tmp_path: Path, image: bytes, names: list[str], message: str
) -> None:
    files = [(name, image if name.endswith("g") else b"1") for name in names]
    write(tmp_path / "a.tar", files)
    with pytest.raises(ShardError, match=message):
        index_foreign(Location.parse(tmp_path))


@pytest.mark.parametrize(
    "label", [b"{", b"[1]", b'{"label": null}', b'{"label": [1]}', b"\xff\xfe"]
)
def test_json_without_a_label_is_refused(tmp_path: Path, image: bytes, label: bytes) -> None:
    write(tmp_path / "a.tar", [("a.png", image), ("a.json", label)])
    with pytest.raises(ShardError, match=r"sample 'a' at byte 512: (no label|its .json member)"):
        index_foreign(Location.parse(tmp_path))


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [("a.png", b"text"), ("a.cls", b"1")])
    with pytest.raises(ShardError, match=r"a.tar: sample 'a' at byte 512: not a readable image"):
        index_foreign(Location.parse(tmp_path))


def test_a_key_in_two_tars_of_a_split_is_refused(tmp_path: Path, image: bytes) -> None:
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, good(image))
    with pytest.raises(ShardError, match=r"b.tar: key 's000' at byte 512 occurs twice"):
        index_foreign(Location.parse(tmp_path))


def test_directories_that_cannot_be_splits_are_refused(tmp_path: Path, image: bytes) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such directory"):
        index_foreign(Location.parse(tmp_path / "nowhere"))
    with pytest.raises(ShardError, match=r"no \*.tar here or one directory below"):
        index_foreign(Location.parse(tmp_path))
    write(tmp_path / "train/a.tar", good(image))
    write(tmp_path / "base/a.tar", good(image))
    with pytest.raises(ShardError, match="two directories for split 'base'"):
        index_foreign(Location.parse(tmp_path))
    write(tmp_path / "a.tar", good(image))
    (tmp_path / "base/a.tar").unlink()
    with pytest.raises(ShardError, match="tars both here and in base"):
        index_foreign(Location.parse(tmp_path))


def test_labels_may_be_text_members(tmp_path: Path, image: bytes) -> None:
    write(tmp_path / "a.tar", [("a.png", image), ("a.txt", b" fox \n")])
    assert index_foreign(Location.parse(tmp_path)).class_names == {"base": ["fox"]}
