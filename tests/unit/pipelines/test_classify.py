"""Ordinary classification through a pipeline: a long tail, additions, images set aside, answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_shards.manifest import ShardSet
from data_shards.selection import rows_where
from fsl.config import build
from fsl.errors import ConfigError, FewShotError
from pipelines.metric_log import read_metrics
from pipelines.model import load_model
from pipelines.runner import PipelineConfig, plan, run_pipeline
from pipelines.stage import StageResult
from pipelines.stages.classify import compared, result_entry
from pipelines.train_config import TrainConfig

SHARDS = {
    "kind": "write_shards",
    "source": {
        "name": "strokes", "size": 16, "images": 40, "held_out_images": 10, "characters": 3,
        "base_alphabets": 2, "val_alphabets": 0, "novel_alphabets": 0,
    },
}  # fmt: skip
TRAIN: dict[str, Any] = {
    "kind": "train",
    "needs": ["shards"],
    "images": {"mode": "grey", "normalisation": "half", "size": 16, "resize": 16},
    "backbone": {"name": "conv4", "width": 16, "halvings": 2, "pool": "mean"},
    "method": {"name": "supervised", "balanced": True, "view": {"flip": 0}},
    "data": {"batch_size": 16, "select": {"set_aside": 0.25, "long_tail": {"ratio": 10}}},
    "optim": {"epochs": 4, "lr": 0.003, "warmup_epochs": 0},
    "validation": {"kind": "classes", "every_epochs": 2},
    "cluster": {"launcher": "local"},
}
MODELS = ("shards", "plain", "mixed")
BATCHFORMER = {
    "batchformer": {"lr_multiplier": 0.1},
    "drloc": {"pairs": 8, "hidden": 8, "warmup_epochs": 1},
}


def recipe(run: Path, **changes: Any) -> PipelineConfig:
    tree = {
        "run_dir": str(run),
        "stages": {
            "shards": SHARDS,
            "plain": TRAIN,
            "mixed": {**TRAIN, "additions": BATCHFORMER},
            "classify": {
                "kind": "classify",
                "needs": ["shards", "plain", "mixed"],
                "by": "alphabet",
            },
        },
    }
    return build(
        PipelineConfig, tree, {f"stages.{k.replace('__', '.')}": v for k, v in changes.items()}
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageResult]:
    return run_pipeline(recipe(tmp_path_factory.mktemp("classify")))


def test_answers_and_summary_agree(finished: dict[str, StageResult]) -> None:
    place = finished["classify"].path
    answers = pq.read_table(place.local / "answers.parquet").to_pandas()
    summary = json.loads((place / "summary.json").read_text())
    assert len(answers) == 2 * 60
    for entry in summary["results"]:
        own = answers[answers.model == entry["model"]]
        right = own.label == own.predicted
        assert right.mean() == pytest.approx(entry["mean"])
        assert entry["mean"] > 0.25  # of six classes
        assert entry["training_images"] == [30, 18, 11, 7, 4, 3]
        assert entry["group_classes"] == {"many": 0, "medium": 1, "few": 5}
        assert entry["groups"]["few"] == pytest.approx(
            right[own.label > 0].groupby(own.label).mean().mean()
        )
        assert entry["values"]["base01"] == pytest.approx(right[own.label >= 3].mean())
    (difference,) = summary["differences"]
    assert (difference["a"], difference["b"]) == ("plain", "mixed")
    assert finished["classify"].metrics["mixed_minus_plain"] == pytest.approx(difference["mean"])
    assert "images)" in difference["words"]


def test_a_group_that_no_image_is_asked_of_has_no_accuracy(
    finished: dict[str, StageResult],
) -> None:
    """The base class with 30 images is in the first alphabet, so the second has few ones only."""
    split = rows_where(
        ShardSet.open(finished["shards"].path).split("held_out"), {"alphabet": ["base01"]}
    )
    counts = np.array([30, 18, 11, 7, 4, 3])
    entry = result_entry("plain", np.zeros(len(split), np.int64), split, counts, {})
    assert entry["groups"].keys() == {"few"}
    assert "medium" not in entry["text"]
    assert entry["group_classes"] == {"many": 0, "medium": 1, "few": 5}


def test_models_are_judged_together(tiny_shards: ShardSet) -> None:
    """Of nine equal models hardly ever one is called better than the one before it."""
    split, wrong = tiny_shards.split("base"), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        answers = {
            f"model {number}": np.where(rng.random(len(split)) < 0.6, split.labels, -1)
            for number in range(9)
        }
        wrong += any(entry["real"] for entry in compared(answers, split))
    assert wrong <= 11  # each alone it would be about 30


def test_class_counts_come_from_the_part_that_is_trained_on(
    finished: dict[str, StageResult],
) -> None:
    method = load_model(finished["plain"].path).method
    assert method.config.class_counts == (30, 18, 11, 7, 4, 3)
    assert np.allclose(np.exp(method.log_counts.numpy()), method.config.class_counts)  # type: ignore[operator, union-attr]


def test_validation_asks_the_images_set_aside(finished: dict[str, StageResult]) -> None:
    lines = [line for line in read_metrics(finished["plain"].path) if line["kind"] == "validation"]
    assert len(lines) == 2
    assert all(
        line["accuracy"] * 60 == pytest.approx(round(line["accuracy"] * 60)) for line in lines
    )


def test_additions_are_trained_with_their_own_rate_and_logged(
    finished: dict[str, StageResult],
) -> None:
    lines = [line for line in read_metrics(finished["mixed"].path) if line["kind"] == "train"]
    assert "drloc_l1_cell" in lines[-1]
    names = load_model(finished["mixed"].path).method.state_dict()
    assert any(name.startswith("additions.batchformer.") for name in names)


def test_a_model_goes_on_without_its_additions(tmp_path: Path) -> None:
    tuned = {**TRAIN, "needs": ["shards", "mixed"]}
    tree = {"shards": SHARDS, "mixed": {**TRAIN, "additions": BATCHFORMER}, "tuned": tuned}
    for key in ("images", "backbone"):
        tuned.pop(key)
    results = run_pipeline(build(PipelineConfig, {"run_dir": str(tmp_path), "stages": tree}))
    names = load_model(results["tuned"].path).method.state_dict()
    assert not any(name.startswith("additions.") for name in names)


def test_few_shot_classes_cannot_be_classified(tmp_path: Path) -> None:
    changed = recipe(
        tmp_path,
        shards__source__novel_alphabets=1,
        plain__optim__epochs=1,
        mixed__optim__epochs=2,
        classify__split="novel",
        classify__by=None,
    )
    with pytest.raises(FewShotError, match="other classes than 'base'"):
        run_pipeline(changed)


def test_validation_of_classes_needs_images_set_aside(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.select\.set_aside"):
        recipe(tmp_path, plain__data__select=None)


def test_drlocs_weight_must_be_able_to_rise(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"warmup_epochs: 4, but the stage has 4 epochs"):
        recipe(tmp_path, mixed__additions={"drloc": {"warmup_epochs": 4}})


@pytest.mark.parametrize("method", ["protonet", "moco"])
def test_methods_without_a_classifier_are_refused_before_anything_runs(
    tmp_path: Path, method: str
) -> None:
    episodes = {"name": "fixed", "ways": 3, "shots": 1, "queries": 2}
    changed = {"method": {"name": method}, "validation": {"every_epochs": 0}}
    own = {"episodes": episodes, "data": {}} if method == "protonet" else {}
    tree = {
        "shards": SHARDS,
        "plain": {**TRAIN, **changed, **own},
        "classify": {"kind": "classify", "needs": ["shards", "plain"]},
    }
    config = build(PipelineConfig, {"run_dir": str(tmp_path), "stages": tree})
    with pytest.raises(FewShotError, match="learns no classifier"):
        run_pipeline(config)
    assert not list(tmp_path.glob("plain-*"))
    asks = {"validation": {"kind": "classes", "every_epochs": 1}, "data": TRAIN["data"]}
    if method == "moco":
        with pytest.raises(ConfigError, match=r"validation\.kind: method 'moco' learns no classif"):
            build(TrainConfig, {**TRAIN, **changed, **asks})


def test_fields_and_values_are_checked_as_soon_as_the_shards_are_there(tmp_path: Path) -> None:
    changed = recipe(tmp_path, classify__where={"alphabet": ["nowhere"]})
    shards = build(PipelineConfig, {"run_dir": str(tmp_path), "stages": {"shards": SHARDS}})
    run_pipeline(shards)
    with pytest.raises(FewShotError, match=r"where\.alphabet: .*'nowhere'"):
        plan(changed)


@pytest.mark.parametrize("written", [True, False])
def test_images_that_were_trained_on_are_refused(tmp_path: Path, written: bool) -> None:
    """The stages train on `base` with images set aside; on disjoint parts of it all is well."""
    if written:
        run_pipeline(
            build(PipelineConfig, {"run_dir": str(tmp_path), "stages": {"shards": SHARDS}})
        )
    message = r"split: asks .*images of split 'base' that 'plain' is trained on; use 'held_out'"
    with pytest.raises(FewShotError, match=message):
        plan(recipe(tmp_path, classify__split="base"))
    trained = {"alphabet": ["base00"]}
    part = {"where": trained, "set_aside": 0.25}
    parts = {f"{name}__data__select": part for name in ("plain", "mixed")}
    alike = recipe(tmp_path, classify__split="base", classify__where=trained, **parts)
    if written:
        with pytest.raises(FewShotError, match=r"split: asks 90 of the 120 images of split 'b"):
            plan(alike)
    other = {"alphabet": ["base01"]}
    plan(recipe(tmp_path, classify__split="base", classify__where=other, **parts))


def test_so_are_those_of_the_model_before(tmp_path: Path) -> None:
    first = {**TRAIN, "data": {"batch_size": 16}, "validation": {"every_epochs": 0}}
    apart = {"where": {"alphabet": ["base00"]}, "set_aside": 0.25}
    second = {**TRAIN, "needs": ["shards", "first"], "data": {"select": apart}}
    asked = {
        "kind": "classify", "needs": ["shards", "second"], "split": "base",
        "where": {"alphabet": ["base01"]},
    }  # fmt: skip
    stages = {"shards": SHARDS, "first": first, "second": second, "classify": asked}
    run_pipeline(build(PipelineConfig, {"run_dir": str(tmp_path), "stages": {"shards": SHARDS}}))
    with pytest.raises(FewShotError, match=r"120 of the 120 images .* that 'first' is trained on"):
        plan(build(PipelineConfig, {"run_dir": str(tmp_path), "stages": stages}))
