"""The stages of shard sets, run by the runner."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_shards.class_tree import TREE_NAME
from data_shards.manifest import INDEX_NAME, ShardSet
from fsl.config import build
from fsl.errors import FewShotError
from pipelines.runner import PipelineConfig, plan, run_pipeline


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(12):
        path = tmp_path / f"images/base/class{number % 3}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "images"


def pipeline(run: Path, stage: dict[str, Any], **values: Any) -> PipelineConfig:
    return build(PipelineConfig, {"run_dir": str(run), "stages": {"shards": stage}, **values})


def writing(images: Path, **values: Any) -> dict[str, Any]:
    source = {"name": "folder", "root": str(images)}
    return {"kind": "write_shards", "source": source, "max_samples": 5, **values}


def test_shards_are_written_into_the_stages_directory(images: Path, tmp_path: Path) -> None:
    result = run_pipeline(pipeline(tmp_path / "run", writing(images)))["shards"]
    assert result.metrics == {"images": 12.0, "classes": 3.0, "shards": 3.0}
    assert len(ShardSet.open(result.path)) == 12
    assert result.gives == "shards"


def test_a_changed_image_gives_another_key(images: Path, tmp_path: Path) -> None:
    config = pipeline(tmp_path / "run", writing(images))
    before = plan(config)["shards"].key
    os.utime(images / "base/class0/0.png", ns=(1, 1))
    assert plan(config)["shards"].key != before


def test_another_seed_of_the_recipe_keeps_the_shards(images: Path, tmp_path: Path) -> None:
    keys = {
        plan(pipeline(tmp_path / "run", writing(images), seed=seed))["shards"].key
        for seed in (0, 1)
    }
    assert len(keys) == 1


def test_an_interrupted_writing_is_completed(images: Path, tmp_path: Path) -> None:
    config = pipeline(tmp_path / "run", writing(images))
    path = run_pipeline(config)["shards"].path.local
    assert path is not None
    expected = (path / "base/base-000001.tar").read_bytes()
    (path / "result.json").unlink()
    (path / INDEX_NAME).unlink()
    (path / "base/base-000001.tar").write_bytes(b"half a shard")
    assert plan(config)["shards"].state == "continue"
    run_pipeline(config)
    assert (path / "base/base-000001.tar").read_bytes() == expected


def test_a_changed_class_tree_gives_another_key(images: Path, tmp_path: Path) -> None:
    made = run_pipeline(pipeline(tmp_path / "made", writing(images)))["shards"]
    config = pipeline(tmp_path / "run", {"kind": "use_shards", "path": str(made.path)})
    keys = [plan(config)["shards"].key]
    for classes in ([], ["class0"], ["class1"]):
        tree = {"nodes": [{"name": "node", "classes": classes}]}
        (made.path / TREE_NAME).write_text(json.dumps(tree))
        keys.append(plan(config)["shards"].key)
    assert len(set(keys)) == 4
    (made.path / TREE_NAME).delete()
    assert plan(config)["shards"].key == keys[0]


def test_using_a_shard_set_copies_nothing(tiny_shards: ShardSet, tmp_path: Path) -> None:
    stage = {"kind": "use_shards", "path": str(tiny_shards.root)}
    result = run_pipeline(pipeline(tmp_path / "run", stage))["shards"]
    assert result.path == tiny_shards.root
    assert {path.suffix for path in (tmp_path / "run").rglob("*.*") if path.is_file()} <= {
        ".json",
        "",
    }


def test_a_moved_shard_set_keeps_its_key_and_is_found(images: Path, tmp_path: Path) -> None:
    run_pipeline(pipeline(tmp_path / "a", writing(images)))
    (made,) = (tmp_path / "a").glob("shards-*")
    places = [tmp_path / "here", tmp_path / "there"]
    results = []
    for place in places:
        shutil.copytree(made, place)
        stage = {"kind": "use_shards", "path": str(place)}
        results.append(run_pipeline(pipeline(tmp_path / "run", stage))["shards"])
    assert results[0].key == results[1].key
    assert [result.path.local for result in results] == places


def test_no_shard_set_is_found_out_before_anything_runs(tmp_path: Path) -> None:
    config = pipeline(tmp_path / "run", {"kind": "use_shards", "path": str(tmp_path)})
    with pytest.raises(FewShotError, match=r"stages\.shards \(use_shards\): .* no index\.parquet"):
        run_pipeline(config)
    assert not (tmp_path / "run").exists()
