"""`fewshot shards ...`: what users type, see and get back as exit status."""

import io
from pathlib import Path

import pytest
from PIL import Image

from data_shards.sources import SOURCES
from pipelines.cli import main

SETTINGS = ("images=3", "characters=2", "base_alphabets=2", "novel_alphabets=1")


def write(out: Path, *more: str) -> int:
    return main(["shards", "write", "strokes", str(out), *SETTINGS, "--quiet", *more])


def test_write_makes_a_shard_set_and_prints_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(tmp_path / "out", "size=16") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path}/out: 24 images, digest ")
    assert lines[1].startswith("source strokes, packing seed 0")
    assert lines[3].split() == [
        "split", "classes", "images", "per", "class", "pixels", "formats", "image", "MB",
        "shards", "shard", "MB",
    ]  # fmt: skip
    assert lines[4].split()[:6] == ["base", "4", "12", "3", "16x16", "png"]
    assert [line.split()[0] for line in lines[4:]] == ["base", "val", "novel"]


def test_progress_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "write", "strokes", str(tmp_path), *SETTINGS]) == 0
    streams = capsys.readouterr()
    assert "24/24" in streams.err
    assert "24/24" not in streams.out


def test_describe_prints_the_same_table_and_draws_a_contact_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "out")
    table = capsys.readouterr().out
    picture = tmp_path / "sheet.png"
    assert main(["shards", "describe", str(tmp_path / "out"), "--picture", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(table)
    assert f"contact sheet: {picture}" in shown
    with Image.open(io.BytesIO(picture.read_bytes())) as sheet:
        assert sheet.width >= 3 * 28
        assert len(set(sheet.convert("L").tobytes())) > 10


def test_the_help_names_every_built_in_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "write", "--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    ours = [name for name in SOURCES.names() if SOURCES.get(name).__module__.startswith("data_s")]
    assert "strokes" in ours
    assert set(ours) <= set(words)


def test_index_makes_a_shard_set_of_tars_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    (tmp_path / "index.parquet").unlink()
    capsys.readouterr()
    assert main(["shards", "index", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path}: 24 images")
    assert lines[1].startswith("source foreign, packing seed unknown")
    assert lines[4].split()[:4] == ["base", "4", "12", "3"]


def test_check_says_yes_with_status_0_and_no_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    assert main(["shards", "check", str(tmp_path), "--quiet"]) == 0
    assert "no fault" in capsys.readouterr().out
    shard = tmp_path / "novel" / "novel-000000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    assert main(["shards", "check", str(tmp_path), "--quiet", "--fast"]) == 1
    assert "novel/novel-000000.tar" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["write", "stroke", "OUT"], "unknown source 'stroke'; did you mean 'strokes'"),
        (["write", "strokes", "OUT", "sise=3"], "sise: unknown key; did you mean 'size'"),
        (["write", "strokes", "OUT", "size=3"], "size: Input should be greater than or equal to 8"),
        (["write", "strokes", "OUT", "size"], "write it as section.key=value"),
        (["write", "folder", "OUT"], "root: this key is required"),
        (["write", "strokes", "OUT", "--max-samples", "0"], "max_samples=0: must be positive"),
        (["describe", "OUT"], "no index.parquet, so this is no shard set"),
        (["check", "OUT"], "no index.parquet, so this is no shard set"),
    ],
)
def test_mistakes_exit_2_with_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    place = str(tmp_path / "out")
    assert main(["shards", *(place if item == "OUT" else item for item in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fewshot shards: ")
    assert message in error
    assert "Traceback" not in error


def test_a_finished_set_is_replaced_only_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write(tmp_path) == 0
    assert write(tmp_path, "--seed", "1") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert write(tmp_path, "--seed", "1", "--overwrite") == 0
    assert "packing seed 1" in capsys.readouterr().out
