"""Models asked about images of another size than they were validated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data_shards.features import FeatureSet
from data_shards.manifest import ShardSet
from fsl.augment.evaluation import evaluation_images
from fsl.config import build
from fsl.errors import FewShotError
from fsl.images import ImageSpec
from pipelines.accuracies import read_summary
from pipelines.image_store import ImageStore
from pipelines.model import load_model
from pipelines.report.history import history
from pipelines.runner import PipelineConfig, plan
from pipelines.stages.report import last_model
from tests.finished_run import FinishedRun
from tests.unit.pipelines.test_evaluation_inputs import EPISODES, EXTRACT, HEAD, SHARDS

LARGE = {"size": 56, "resize": 64}
NEEDS = ["shards", "pretrain"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    made = FinishedRun(tmp_path_factory.mktemp("shown"))
    made.shards()
    made.model("pretrain", "masked_distillation", ["shards"])
    return made


def features_by_hand(run: FinishedRun, split: str) -> torch.Tensor:
    """Return what the model makes of images of 56 pixels, one at a time."""
    model = load_model(run.results["pretrain"].path)
    images = ImageSpec(mode="grey", normalisation="half", size=56, resize=64)
    part = ShardSet.open(run.results["shards"].path).split(split)
    store = ImageStore(part, "grey")
    rows = torch.arange(len(part)).numpy()
    with torch.no_grad():
        return torch.cat(
            [model.method.embed(evaluation_images([one], images)) for one in store.images(rows)]
        )


def test_tables_hold_features_of_the_images_shown(run: FinishedRun) -> None:
    settings: dict[str, object] = {"images": LARGE, "splits": ["novel"]}
    tables = FeatureSet.open(run.run("large", "extract_features", settings, NEEDS).path)
    vectors = torch.tensor(tables.split("novel").vectors())
    torch.testing.assert_close(vectors, features_by_hand(run, "novel"), rtol=1e-4, atol=1e-4)


def test_an_evaluation_shows_its_size_to_models_and_report(run: FinishedRun) -> None:
    settings: dict[str, object] = {"tasks": 30, "queries": 3, "shots": [1], "seed": 3}
    usual = run.run("usual", "evaluate", settings, NEEDS)
    large = run.run("evaluate", "evaluate", {**settings, "images": LARGE}, NEEDS)
    assert usual.metrics != large.metrics
    (file,) = (large.path / "features").list()
    assert file.name not in [place.name for place in (usual.path / "features").list()]
    summary = read_summary(large.path)
    assert summary["shown"] == LARGE
    assert read_summary(usual.path)["shown"] is None
    _, model = last_model(summary, history([large.path]))
    assert (model.images.size, model.images.resize) == (56, 64)


def check(tmp_path: Path, net: dict[str, Any], images: dict[str, int], kind: str) -> None:
    """Plan a network, a table of it, a model on that, and a stage that shows images to `net`."""
    train = {"kind": "train", "needs": ["shards"], "episodes": EPISODES}
    tree = {
        "shards": SHARDS,
        "first": {**train, "method": {"name": "protonet"}, **net},
        "net": {**train, "needs": ["shards", "first"], "method": {"name": "protonet"}},
        "table": {**EXTRACT, "images": images},
        "head": HEAD,
        "asked": {"kind": kind, "needs": ["shards", "net"], "images": images},
    }
    plan(build(PipelineConfig, {"run_dir": str(tmp_path), "stages": tree}))


@pytest.mark.parametrize("kind", ["evaluate", "extract_features"])
def test_sizes_that_a_network_cannot_take_are_refused(tmp_path: Path, kind: str) -> None:
    flat = {"backbone": {"name": "conv4", "pool": "flatten"}, "images": {"size": 28}}
    message = r"images\.size: 56, and 'net' cannot be shown such images: conv4 with pool 'flatten'"
    with pytest.raises(FewShotError, match=message):
        check(tmp_path, flat, LARGE, kind)
    check(tmp_path, flat, {"size": 28, "resize": 40}, kind)
    check(tmp_path, {"backbone": {"name": "conv4", "pool": "mean"}}, LARGE, kind)
    patches = {"backbone": {"name": "vit", "size": "micro", "patch": 8}, "images": {"size": 32}}
    with pytest.raises(FewShotError, match=r"'net' cannot be shown such images: .*multiple of"):
        check(tmp_path, patches, {"size": 60}, kind)
    check(tmp_path, patches, LARGE, kind)


def test_vectors_have_no_size(tmp_path: Path) -> None:
    tree = {
        "shards": SHARDS,
        "net": {
            "kind": "train", "needs": ["shards"], "episodes": EPISODES,
            "method": {"name": "protonet"}, "backbone": {"name": "conv4", "pool": "mean"},
        },
        "table": EXTRACT,
        "head": HEAD,
        "evaluate": {"kind": "evaluate", "needs": ["table", "head"], "images": LARGE},
    }  # fmt: skip
    with pytest.raises(
        FewShotError, match=r"images: 'table' gives feature vectors, which have no size"
    ):
        plan(build(PipelineConfig, {"run_dir": str(tmp_path), "stages": tree}))


def test_a_model_is_not_asked_about_vectors_of_another_size(tmp_path: Path) -> None:
    tree = {
        "shards": SHARDS,
        "net": {
            "kind": "train", "needs": ["shards"], "episodes": EPISODES,
            "method": {"name": "protonet"}, "backbone": {"name": "conv4", "pool": "mean"},
        },
        "small": EXTRACT,
        "large": {**EXTRACT, "images": LARGE},
        "head": {**HEAD, "needs": ["small"]},
        "evaluate": {"kind": "evaluate", "needs": ["large", "head"]},
    }  # fmt: skip
    with pytest.raises(FewShotError, match="'head' is trained on the vectors of 'small'"):
        plan(build(PipelineConfig, {"run_dir": str(tmp_path), "stages": tree}))
