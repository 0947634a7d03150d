"""The extract_features stage: every image once, in order, and after a kill only what is missing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_shards.features import FeatureSet, FeatureSplit
from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.augment import evaluation_images
from fsl.backbones.features import FeaturesConfig
from fsl.config import build
from fsl.errors import ConfigError, FewShotError, StageError
from fsl.methods.distillation import Distillation
from pipelines.extraction import Extraction, Extractor
from pipelines.image_store import ImageStore
from pipelines.model import load_model
from pipelines.runner import PipelineConfig, plan
from pipelines.stage import STAGES, PlannedStage
from pipelines.stages import extract_features
from tests.finished_run import FinishedRun

NEEDS = ["shards", "pretrain"]
ROWS = 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Three splits of 84 rows, each in parts of 30, 30 and 24."""
    made = FinishedRun(tmp_path_factory.mktemp("extract"))
    made.shards()
    made.model("pretrain", "masked_distillation", ["shards"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_features, "ROWS_PER_PART", ROWS)
        made.run("features", "extract_features", {"batch_size": 13}, NEEDS)
    return made


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_features, "ROWS_PER_PART", ROWS)


class Interrupting:
    """`embed` that stops the program in the call that would see more than `most` images."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int = 10_000) -> None:
        self.images, self.most = 0, most
        own = Distillation.embed

        def embed(method: Distillation, images: Tensor) -> Tensor:
            if self.images + len(images) > self.most:
                raise KeyboardInterrupt
            self.images += len(images)
            return own(method, images)

        monkeypatch.setattr(Distillation, "embed", embed)


def split_of(features: Location, name: str) -> FeatureSplit:
    return FeatureSet.open(features).split(name)


def contents(place: Location) -> dict[str, str]:
    assert place.local is not None
    files = sorted(place.local.glob("*.parquet"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_every_image_has_its_vector_in_the_order_of_the_shards(run: FinishedRun) -> None:
    model = load_model(run.results["pretrain"].path)
    shards = ShardSet.open(run.results["shards"].path)
    features = FeatureSet.open(run.results["features"].path)
    assert features.splits == shards.splits
    for name in shards.splits:
        images, table = shards.split(name), features.split(name)
        store = ImageStore(images, "grey")
        assert list(table.keys) == images.keys.to_pylist()
        assert table.labels.tolist() == images.labels.tolist()
        assert table.class_names == images.class_names
        with torch.no_grad():
            for row in range(0, len(images), 5):
                (image,) = store.images(np.array([row]))
                expected = model.method.embed(evaluation_images([image], model.images))
                found = torch.from_numpy(table.vectors()[row].copy())
                torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


def test_tables_say_what_they_were_made_from(run: FinishedRun) -> None:
    model = load_model(run.results["pretrain"].path)
    meta = FeatureSet.open(run.results["features"].path).meta
    assert meta.data == ShardSet.open(run.results["shards"].path).digest
    assert meta.weights == model.digest
    assert meta.preparation == model.images.model_dump(mode="json")
    assert meta.source == {"model": "pretrain", "which": "best"}


def test_metrics_count_images_and_dimensions(run: FinishedRun) -> None:
    result = run.results["features"]
    assert result.gives == "features"
    assert result.metrics["images"] == 252
    assert result.metrics["dimensions"] == split_of(result.path, "val").vectors().shape[1]
    assert result.metrics["images_per_second"] > 0


def test_an_interrupted_extraction_computes_only_what_is_missing(
    run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted = Interrupting(monkeypatch, most=100)  # one batch into the fourth part
    with pytest.raises(KeyboardInterrupt):
        run.run("again", "extract_features", {"batch_size": 13}, NEEDS)
    out = run.root / "again-cccc"
    assert list(contents(out)) == [f"base-0000{part}-of-00003.parquet" for part in range(3)]
    assert interrupted.images == 84 + 13
    monkeypatch.undo()
    monkeypatch.setattr(extract_features, "ROWS_PER_PART", ROWS)
    rest = Interrupting(monkeypatch)
    again = run.run("again", "extract_features", {"batch_size": 13}, NEEDS)
    assert rest.images == 252 - 84
    assert again.metrics["images"] == 252
    assert contents(again.path) == contents(run.results["features"].path)


def test_a_damaged_part_is_computed_again_and_nothing_else(
    run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run.results["features"].path
    before = contents(out)
    part = out / "novel-00001-of-00003.parquet"
    part.write_bytes(part.read_bytes()[:-40])
    counted = Interrupting(monkeypatch)
    run.run("features", "extract_features", {"batch_size": 13}, NEEDS)
    assert counted.images == 30
    assert contents(out) == before
    metrics = run.run("features", "extract_features", {"batch_size": 13}, NEEDS).metrics
    assert counted.images == 30
    assert "images_per_second" not in metrics


def test_some_splits_alone_have_the_same_tables(run: FinishedRun) -> None:
    settings: dict[str, Any] = {"splits": ["val"], "batch_size": 13}
    result = run.run("alone", "extract_features", settings, NEEDS)
    expected = contents(run.results["features"].path)
    assert contents(result.path) == {
        name: digest for name, digest in expected.items() if name.startswith("val")
    }


@pytest.mark.slow
def test_processes_that_decode_change_nothing(run: FinishedRun) -> None:
    settings: dict[str, Any] = {"splits": ["val"], "batch_size": 13}
    tables = [
        contents(
            run.run(f"by{n}", "extract_features", settings | {"loader_workers": n}, NEEDS).path
        )
        for n in (0, 2)
    ]
    assert tables[0] == tables[1]


def test_only_what_changes_the_vectors_changes_the_key() -> None:
    def key(**settings: Any) -> str:
        kind = STAGES.get("extract_features")
        return kind(build(kind.Config, settings)).key(["a", "b"])

    cluster = {"workers": 3, "gpu": False, "cpus_per_worker": 2}
    assert key(batch_size=8, loader_workers=2, cluster=cluster) == key()
    assert len({key(), key(which="last"), key(splits=["val"])}) == 3


def test_an_unknown_split_is_refused(run: FinishedRun) -> None:
    with pytest.raises(FewShotError, match=r"no split 'vall'; did you mean 'val'"):
        run.run("wrong", "extract_features", {"splits": ["vall"]}, NEEDS)
    done = run.results["shards"]
    writing = STAGES.get("use_shards")
    stage = writing(build(writing.Config, {"path": str(done.path)}))
    planned = PlannedStage("shards", stage, done.key, done.path, "done", result=done)
    config = build(extract_features.ExtractFeaturesConfig, {"splits": ["vall"]})
    with pytest.raises(FewShotError, match=r"no split 'vall'; did you mean 'val'"):
        extract_features.ExtractFeatures(config).check({"shards": planned})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": []}, "splits"),
        ({"splits": ["val", "val"]}, "name each split once"),
        ({"batch_size": 0}, "batch_size"),
        ({"cluster": {"workers": 0}}, "cluster.workers"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(extract_features.ExtractFeaturesConfig, settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(run: FinishedRun) -> None:
    with pytest.raises(StageError, match=r"cluster\.gpu: true, but this machine has no usable GPU"):
        run.run("wrong", "extract_features", {"cluster": {"gpu": True}}, NEEDS)


def test_a_model_that_will_be_trained_on_vectors_is_refused_before_anything_runs(
    run: FinishedRun, tmp_path: Path
) -> None:
    tree = {
        "run_dir": str(tmp_path),
        "stages": {
            "shards": {"kind": "use_shards", "path": str(run.results["shards"].path)},
            "network": {
                "kind": "train", "needs": ["shards"], "backbone": {"name": "conv4"},
                "method": {"name": "supervised"}, "validation": {"every_epochs": 0},
            },
            "features": {"kind": "extract_features", "needs": ["shards", "network"]},
            "head": {
                "kind": "train", "needs": ["features"], "method": {"name": "awgim"},
                "episodes": {"name": "fixed"},
            },
            "wrong": {"kind": "extract_features", "needs": ["shards", "head"]},
        },
    }  # fmt: skip
    with pytest.raises(ConfigError, match="'head' is trained on feature vectors and takes no ima"):
        plan(build(PipelineConfig, tree))


def test_a_model_that_was_trained_on_vectors_is_refused(
    run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(run.results["pretrain"].path)
    config = model.config.model_copy(update={"backbone": FeaturesConfig(size=4)})
    monkeypatch.setattr("pipelines.extraction.load_model", lambda *_: model._replace(config=config))
    paths = (run.results[name].path for name in ("pretrain", "shards"))
    job = Extraction(next(paths), "best", next(paths), None, run.root / "never", 8)
    with pytest.raises(StageError, match="was trained on feature vectors and takes no images"):
        Extractor(job).missing()
