"""Locations: the same behaviour on a local disk and on an S3 server."""

import os
import pickle
from pathlib import Path

import pytest

from data_shards.location import Location
from fsl.errors import ConfigError, StorageError


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return Location.parse(tmp_path / "runs")
    address: str = request.getfixturevalue("s3_root")
    return Location.parse(address) / request.node.name.partition("[")[0]


def test_bytes_and_text_come_back_as_written(root: Location) -> None:
    file = root / "a" / "b.bin"
    assert not file.exists()
    file.write_bytes(b"\0\1\2")
    assert file.exists()
    assert file.size() == 3
    assert file.read_bytes() == b"\0\1\2"
    file.write_text("naïve")
    assert file.read_text() == "naïve"
    assert (root / "a").is_dir()
    assert file.name == "b.bin"
    assert file.parent == root / "a"


def test_a_file_can_be_read_at_any_position(root: Location) -> None:
    (root / "f").write_bytes(bytes(range(100)))
    with (root / "f").open_input() as stream:
        assert stream.read_at(3, 50) == bytes([50, 51, 52])


def test_a_directory_lists_what_it_holds_by_name(root: Location) -> None:
    for name in ("b", "a", "c/d"):
        (root / name).write_bytes(b"x")
    assert [item.name for item in root.list()] == ["a", "b", "c"]


def test_delete_takes_files_and_whole_directories_and_nothing_is_no_fault(root: Location) -> None:
    for name in ("keep", "drop", "folder/one", "folder/two"):
        (root / name).write_bytes(b"x")
    for name in ("drop", "folder", "never"):
        (root / name).delete()
    assert [item.name for item in root.list()] == ["keep"]


def test_files_and_directories_travel_up_and_down(root: Location, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "one").write_bytes(b"1")
    (source / "two").write_bytes(b"2")
    (root / "copy").upload(source)
    (root / "single").upload(source / "two")
    (root / "copy").download(tmp_path / "back" / "all")
    (root / "single").download(tmp_path / "back" / "two")
    assert (tmp_path / "back" / "all" / "deep" / "one").read_bytes() == b"1"
    assert (tmp_path / "back" / "all" / "two").read_bytes() == b"2"
    assert (tmp_path / "back" / "two").read_bytes() == b"2"


def test_what_is_not_there_gives_an_error_with_its_address(root: Location) -> None:
    for act in (Location.read_bytes, Location.open_input, Location.size, Location.list):
        with pytest.raises(StorageError, match="nowhere"):
            act(root / "nowhere")


def test_a_location_survives_pickle_and_its_own_text(root: Location) -> None:
    (root / "f").write_bytes(b"x")
    for other in (pickle.loads(pickle.dumps(root)), Location.parse(str(root))):
        assert other == root
        assert (other / "f").read_bytes() == b"x"
    assert len({root, Location.parse(str(root))}) == 1


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Location.parse(tmp_path) / "f"
    file.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"f: cannot be written: No space left on device"):
        file.write_bytes(b"new")
    assert [item.name for item in Location.parse(tmp_path).list()] == ["f"]
    assert file.read_bytes() == b"old"


def test_new_files_have_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"x")
    (Location.parse(tmp_path) / "ours").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_credentials_in_an_address_are_not_printed() -> None:
    address = "s3://user:secret@bucket/x?endpoint_override=http://127.0.0.1:1"
    assert "secret" not in str(Location.parse(address))
    with pytest.raises(ConfigError, match="not a usable address") as caught:
        Location.parse("nothing://user:secret@bucket/x")
    assert "secret" not in str(caught.value)


def test_local_paths_become_absolute() -> None:
    assert Location.parse("runs/a").local == Path.cwd() / "runs/a"
    assert Location.parse("~/a").local == Path.home() / "a"
    assert Location.parse("file:///a/b").local == Path("/a/b")
    assert Location.parse("file:///a/my%20b").local == Path("/a/my b")


@pytest.mark.parametrize("path", ["my%20dir", "a%23b", "50%25/na%C3%AFve", "k=1,2+3:4"])
def test_an_address_with_any_letters_is_read_back(path: str) -> None:
    place = Location.parse(f"s3://bucket/{path}?region=eu-west-1")
    assert Location.parse(str(place)).path == place.path
    assert Location.parse(str(place / "x y")).path == f"{place.path}/x y"
