"""The import_features stage, run by the runner, and what `fewshot shards describe` says of it."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.features import FeatureSet
from fsl.config import build
from fsl.errors import ConfigError
from pipelines.cli import main
from pipelines.runner import PipelineConfig, plan, run_pipeline

NAMES = {"base": "train", "val": "val", "novel": "test"}


def embeddings(split: str) -> dict[str, Any]:
    """Two classes of three images, in LEO's layout."""
    keys = [f"{i}-{split}{i % 2}-{split}{i % 2}_{i}" for i in range(6)]
    vectors = np.random.default_rng(len(split)).standard_normal((6, 4)).astype(np.float32)
    return {"keys": keys, "embeddings": vectors}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "embeddings"
    place.mkdir()
    for split, name in NAMES.items():
        (place / f"{name}_embeddings.pkl").write_bytes(pickle.dumps(embeddings(split), 2))
    return place


def pipeline(run: Path, **settings: Any) -> PipelineConfig:
    stages = {"features": {"kind": "import_features", **settings}}
    return build(PipelineConfig, {"run_dir": str(run), "stages": stages})


def files(folder: Path) -> dict[str, str]:
    return {split: str(folder / f"{name}_embeddings.pkl") for split, name in NAMES.items()}


def test_a_folder_of_embeddings_becomes_feature_tables(folder: Path, tmp_path: Path) -> None:
    result = run_pipeline(pipeline(tmp_path / "run", leo=str(folder)))["features"]
    assert result.gives == "features"
    assert result.metrics == {"images": 18.0, "classes": 6.0, "dimensions": 4.0}
    tables = FeatureSet.open(result.path)
    assert tables.splits == ["base", "val", "novel"]
    for split in NAMES:
        expected = embeddings(split)
        assert np.array_equal(tables.split(split).vectors(), expected["embeddings"])
        assert list(tables.split(split).keys) == expected["keys"]


def test_named_files_and_the_folder_they_lie_in_are_the_same(folder: Path, tmp_path: Path) -> None:
    by_folder = plan(pipeline(tmp_path / "run", leo=str(folder)))["features"].key
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    config = pipeline(tmp_path / "run", files=files(moved))
    assert plan(config)["features"].key == by_folder
    assert run_pipeline(config)["features"].metrics["images"] == 18
    assert plan(pipeline(tmp_path / "run", leo=str(folder)))["features"].state == "done"


def test_paths_start_where_the_command_is_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = plan(pipeline(tmp_path / "run", leo=folder.name))["features"].key
    assert here == plan(pipeline(tmp_path / "run", leo=str(folder)))["features"].key


def test_other_content_or_another_split_gives_another_key(folder: Path, tmp_path: Path) -> None:
    def key(**chosen: str) -> str:
        return plan(pipeline(tmp_path / "run", files=chosen))["features"].key

    all_files = files(folder)
    keys = [key(**all_files), key(base=all_files["base"]), key(novel=all_files["base"])]
    content = embeddings("base")
    content["embeddings"][0, 0] += 1
    Path(all_files["base"]).write_bytes(pickle.dumps(content, 2))
    assert len({*keys, key(**all_files), key(base=all_files["base"])}) == 5


def test_an_interrupted_import_is_completed(folder: Path, tmp_path: Path) -> None:
    config = pipeline(tmp_path / "run", leo=str(folder))
    path = run_pipeline(config)["features"].path.local
    assert path is not None
    expected = {file.name: file.read_bytes() for file in path.glob("*.parquet")}
    (path / "result.json").unlink()
    (path / "val.parquet").write_bytes(b"half a table")
    (path / "novel.parquet").unlink()
    assert plan(config)["features"].state == "continue"
    run_pipeline(config)
    assert {file.name: file.read_bytes() for file in path.glob("*.parquet")} == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"leo": "NOWHERE"}, r"none of train_embeddings\.pkl, .* is here; give the folder"),
        ({"files": {"val": "NOWHERE"}}, r"files\.val: .*nowhere: there is no such file"),
        ({"files": {"val": "HERE"}}, r"files\.val: .*: there is no such file"),
        ({}, r"give either leo: FOLDER or files: \{base: PATH"),
        ({"leo": "HERE", "files": {"val": "x"}}, "give either leo: FOLDER or files"),
        ({"files": {"test": "x"}}, "files.*test.*'base', 'val' or 'novel'"),
        ({"files": {}}, "files"),
    ],
)
def test_what_is_not_there_is_found_out_before_anything_runs(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    def placed(value: Any) -> Any:
        places = {"NOWHERE": str(tmp_path / "nowhere"), "HERE": str(tmp_path)}
        if isinstance(value, dict):
            return {name: placed(item) for name, item in value.items()}
        return places.get(value, value)

    with pytest.raises(ConfigError, match=message):
        run_pipeline(pipeline(tmp_path / "run", **placed(settings)))
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_embeddings_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "val_embeddings.pkl").write_bytes(pickle.dumps({"a": 1}, 2))
    with pytest.raises(Exception, match=r"val_embeddings\.pkl: a dict without 'embeddings'"):
        run_pipeline(pipeline(tmp_path / "run", leo=str(folder)))


def test_describe_prints_what_the_tables_hold(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_pipeline(pipeline(tmp_path / "run", leo=str(folder)))["features"].path
    assert main(["shards", "describe", str(path)]) == 0
    shown = capsys.readouterr().out
    assert shown == FeatureSet.open(path).describe() + "\n"
    assert "18 feature vectors" in shown
    assert main(["shards", "describe", str(path), "--picture", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert "--picture: " in error
    assert "holds feature vectors and no images to draw" in error
    assert not (tmp_path / "x.png").exists()
