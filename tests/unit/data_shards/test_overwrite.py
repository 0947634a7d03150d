"""Writing again with `overwrite`: a finished set goes only when another can take its place."""

from pathlib import Path

import pytest
from PIL import Image

from data_shards.describe import contact_sheet
from data_shards.folder import FolderConfig
from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.sources import SourceConfig
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.errors import ConfigError, ShardError

SMALL = StrokesConfig(
    base_alphabets=1, val_alphabets=1, novel_alphabets=1, characters=2, images=3, size=8
)


def write(root: Path, config: SourceConfig = SMALL, seed: int = 0) -> ShardSet:
    return write_shards(config, Location.parse(root), seed=seed, overwrite=True, progress=False)


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_file_of_others_is_seen_before_anything_is_deleted(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "novel" / "README.txt").write_text("mine")
    before = files(tmp_path)
    with pytest.raises(ShardError, match=r"novel/README\.txt: was not made by the writer"):
        write(tmp_path, seed=1)
    assert files(tmp_path) == before


def test_a_source_without_samples_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr("data_shards.synthetic.Strokes.samples", lambda self: [])
    with pytest.raises(ConfigError, match="no samples"):
        write(tmp_path, seed=1)
    assert files(tmp_path) == before


def test_a_negative_seed_is_refused_in_one_line(tmp_path: Path) -> None:
    written = write(tmp_path)
    before = files(tmp_path)
    for act in (lambda: write(tmp_path, seed=-1), lambda: contact_sheet(written, -1)):
        with pytest.raises(ConfigError, match="seed=-1: must be 0 or more"):
            act()
    assert files(tmp_path) == before


def test_the_contact_sheet_shows_16_bit_grey_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "base" / "ant"
    folder.mkdir(parents=True)
    Image.new("I;16", (20, 20), 20_000).save(folder / "1.png")
    written = write(tmp_path / "out", FolderConfig(root=tmp_path / "images"))
    (tmp_path / "sheet.png").write_bytes(contact_sheet(written))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (78, 78, 78) in {colour for _, colour in sheet.getcolors(100_000) or []}
