"""`compare` over classify stages: which of several models knows its classes better."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fsl.config import digest
from fsl.errors import FewShotError
from pipelines.compare import compare
from pipelines.compare.numbers import as_json
from pipelines.compare.page import html
from pipelines.compare.table import header, markdown, text
from pipelines.stages.classify import ANSWERS

IMAGES, CLASSES = 400, 4


def classified(
    root: Path, models: dict[str, float], seed: int = 0, *, images: int = IMAGES, shift: int = 0
) -> Path:
    """Write what a finished classify stage leaves, its answers drawn; return its directory."""
    labels = np.arange(images) % CLASSES
    inputs, tables, results, weights = [], [], [], []
    for model, level in models.items():
        key = digest([model, seed, level])
        place = root / f"{model}-{key[:12]}"
        place.mkdir(parents=True)
        identity = {"label": model, "kind": "train", "key": key}
        config = {"kind": "train", "seed": seed, "method": {"name": "supervised"}, "lr": level}
        (place / "config.json").write_text(json.dumps({**identity, "inputs": [], "config": config}))
        (place / "result.json").write_text(json.dumps({"metrics": {"cpu_minutes": 2.0}}))
        inputs.append({**identity, "dir": place.name})
        right = np.random.default_rng(int(key[:8], 16)).random(images) < level
        predicted = np.where(right, labels, (labels + 1) % CLASSES)
        keys = [f"{number + shift:05d}" for number in range(images)]
        columns = {"model": [model] * images, "key": keys, "label": labels, "predicted": predicted}
        tables.append(pa.table(columns))
        results.append({"model": model, "mean": float(right.mean())})
        weights.append({"label": model, "weights": key})
    place = root / f"classify-{digest([seed, *models, images, shift])[:12]}"
    place.mkdir()
    pq.write_table(pa.concat_tables(tables), place / ANSWERS)
    summary = {
        "split": "held_out", "data": "d" * 64, "images": images, "models": weights,
        "results": results,
    }  # fmt: skip
    (place / "summary.json").write_text(json.dumps(summary))
    identity = {"label": "classify", "kind": "classify", "key": place.name, "inputs": inputs}
    asked = {"kind": "classify", "split": "held_out", "which": "best"}
    (place / "config.json").write_text(json.dumps({**identity, "config": asked}))
    (place / "result.json").write_text(json.dumps({"finished": "2026-01-01", "metrics": {}}))
    return place


def test_seeds_are_averaged_image_by_image_and_differences_are_judged(tmp_path: Path) -> None:
    for seed in range(3):
        classified(tmp_path / f"run{seed}", {"plain": 0.6, "mixed": 0.8}, seed)
    found = compare([tmp_path / f"run{seed}" for seed in range(3)])
    (panel,) = found.panels
    assert panel.title == "classification"
    assert [(row.name, row.runs) for row in panel.rows] == [("mixed", 3), ("plain", 3)]
    told = [
        entry["mean"]
        for place in tmp_path.glob("run*/classify-*/summary.json")
        for entry in json.loads(place.read_text())["results"]
        if entry["model"] == "plain"
    ]
    assert panel.rows[1].mean.mean == pytest.approx(fmean(told))
    lead = panel.differences[0, 1]
    assert (lead.real, lead.real_across_classes, lead.real_across_runs) == (True, None, True)
    shown = text(found)
    assert "classification: 400 images of 4 classes (held_out)" in shown
    assert "over other images of the same classes. Differences" in shown
    assert "± classes" not in header(panel)
    assert "Worse than mixed: plain (−" in shown
    assert "| method | accuracy in % | runs | CPU min | difference | real? |" in markdown(found)
    tree = json.loads(as_json(found))["panels"][0]
    assert tree["bank"]["tasks"] == IMAGES
    assert tree["rows"][0]["class_half_width"] is None
    assert "images " in html(found)


def test_models_that_are_equal_cannot_be_told_apart(tmp_path: Path) -> None:
    place = classified(tmp_path, {"a": 0.7, "b": 0.7})
    (panel,) = compare([place]).panels
    assert not panel.differences[0, 1].real
    assert "may be the luck of these 400 images" in text(compare([place]))


@pytest.mark.parametrize(
    ("other", "reason"),
    [({"images": 200}, "200 instead of 400 images"), ({"shift": 7}, "other images of the split")],
)
def test_other_images_are_not_compared(tmp_path: Path, other: dict[str, Any], reason: str) -> None:
    classified(tmp_path / "a", {"x": 0.7})
    classified(tmp_path / "b", {"y": 0.7}, **other)
    message = f"did not answer the same images as .*: {reason}. Classify the same images"
    with pytest.raises(FewShotError, match=message):
        compare([tmp_path / "a", tmp_path / "b"])


def test_ways_and_shots_are_of_episodes(tmp_path: Path) -> None:
    place = classified(tmp_path, {"a": 0.7, "b": 0.7})
    with pytest.raises(FewShotError, match="--ways: nothing has 5; there is none"):
        compare([place], ways=[5])


def test_edited_answers_are_refused(tmp_path: Path) -> None:
    place = classified(tmp_path, {"a": 0.7, "b": 0.7})
    table = pq.read_table(place / ANSWERS)
    pq.write_table(table.slice(0, 500), place / ANSWERS)
    message = r"damaged results: summary.json says .* of 400 images for b, answers.parquet gives"
    with pytest.raises(FewShotError, match=message):
        compare([place])
    (place / ANSWERS).write_bytes(b"PAR1")
    with pytest.raises(FewShotError, match=r"answers.parquet cannot be read as the answers"):
        compare([place])
