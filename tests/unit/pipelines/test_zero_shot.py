"""The zero_shot stage: seen and unseen pairs through a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_shards.compositions import CompositionsConfig
from data_shards.location import Location
from data_shards.writer import write_shards
from fsl.config import build
from fsl.errors import FewShotError
from fsl.methods.compositional import pair_of
from pipelines.closed_world import closed_world
from pipelines.runner import PipelineConfig, run_pipeline

TRAIN = {
    "kind": "train",
    "needs": ["shards"],
    "images": {"mode": "grey", "normalisation": "half", "size": 16, "resize": 16},
    "backbone": {"name": "conv4", "width": 16, "halvings": 2, "pool": "mean"},
    "method": {"name": "compositional", "width": 16, "view": {"flip": 0}},
    "data": {"batch_size": 32},
    "optim": {"epochs": 5, "lr": 0.005, "warmup_epochs": 0},
    "validation": {"every_epochs": 0},
    "cluster": {"launcher": "local"},
}


def pipeline(run: Path, asked: dict[str, Any], method: str = "compositional") -> PipelineConfig:
    source = {"name": "compositions", "characters": 5, "images": 16, "size": 16}
    train = {**TRAIN, "method": {**TRAIN["method"], "name": method}}  # type: ignore[dict-item]
    if method != "compositional":
        train["method"] = {"name": method}
    stages = {
        "shards": {"kind": "write_shards", "source": source},
        "plain": train,
        "mixed": {**train, "additions": {"batchformer": {"heads": 2}}},
        "zero_shot": {"kind": "zero_shot", "needs": ["shards", "plain", "mixed"], **asked},
    }
    return build(PipelineConfig, {"run_dir": str(run), "stages": stages})


def test_models_are_measured_and_compared(tmp_path: Path) -> None:
    results = run_pipeline(pipeline(tmp_path, {}))
    summary = json.loads((results["zero_shot"].path / "summary.json").read_text())
    assert (summary["seen_pairs"], summary["unseen_pairs"]) == (15, 5)
    assert summary["images"] == 15 * 10 + 5 * 10
    for entry in summary["results"]:
        assert entry["seen"] > 0.15  # of fifteen pairs, unseen ones never chosen
        assert 0 < entry["auc"] <= entry["seen"] * entry["unseen"] + 1e-9
        assert entry["auc_half_width"] > 0
    measured = results["zero_shot"].metrics
    plain, mixed = (entry["auc"] for entry in summary["results"])
    assert measured["mixed_minus_plain_auc"] == pytest.approx(mixed - plain)
    assert {entry["measure"] for entry in summary["differences"]} == {"auc", "harmonic"}


def test_trained_pairs_without_images_are_in_the_world_too(tmp_path: Path) -> None:
    """A test set may have images of few of the pairs that were trained on."""
    source = build(
        CompositionsConfig, {"name": "compositions", "characters": 5, "images": 4, "size": 16}
    )
    shards = write_shards(source, Location.parse(tmp_path), progress=False)
    seen, unseen = shards.split("held_out"), shards.split("novel")
    trained = [("inked", "gnu"), *(pair_of(name) for name in seen.class_names)]
    world = closed_world(seen, unseen, trained)
    assert (len(world.pairs), int(world.seen.sum())) == (16 + 5, 16)
    shown = [" ".join(world.pairs[label]) for label in world.labels.tolist()]
    assert shown[0] == seen.class_names[seen.labels[0]]
    assert shown[-1] == unseen.class_names[unseen.labels[-1]]


@pytest.mark.parametrize(
    ("asked", "method", "message"),
    [
        ({"unseen_split": "held_out"}, "compositional", "unseen_split: the pair .* was trained on"),
        ({}, "supervised", "knows no pairs"),
        ({"unseen_split": "nowel"}, "compositional", "nowel"),
        ({"seen_split": "base"}, "compositional", "seen_split: 'base' is trained on by 'plain'"),
        ({"unseen_split": "base"}, "compositional", "unseen_split: 'base' is trained on by 'pl"),
        ({"seen_split": "val"}, "compositional", "seen_split: the pair .* was not trained on"),
    ],
)
def test_what_cannot_be_asked_is_explained(
    tmp_path: Path, asked: dict[str, Any], method: str, message: str
) -> None:
    with pytest.raises(FewShotError, match=message):
        run_pipeline(pipeline(tmp_path, asked, method))
