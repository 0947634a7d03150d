"""What candidates subtract from their features: the mean of what they were trained on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from data_shards.manifest import ShardSet
from data_shards.selection import SubSplit
from fsl.config import build
from fsl.errors import StageError
from pipelines.candidates import Model
from pipelines.features import Part, model_features
from pipelines.model import LoadedModel, load_model
from pipelines.stages.evaluate import EvaluateConfig, check_data
from pipelines.training_data import training_pools
from tests.finished_run import FinishedRun

EPISODES = {"name": "fixed", "ways": 2, "shots": 1, "queries": 1}
BOTH: dict[str, Any] = {
    "method": {"name": "protonet"}, "episodes": EPISODES, "data": {"split": ["base", "val"]},
}  # fmt: skip
PART: dict[str, Any] = {
    "method": {"name": "supervised", "classes": 7}, "data": {"select": {"set_aside": 0.25}},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    made = FinishedRun(tmp_path_factory.mktemp("candidates"))
    made.shards()
    made.untrained("both", BOTH, ["shards"])
    made.untrained("part", PART, ["shards"])
    return made


def embedded(run: FinishedRun, model: LoadedModel, split: str) -> Tensor:
    whole = Part.whole(ShardSet.open(run.results["shards"].path).split(split))
    return model_features(model, whole, run.root / "features", batch_size=64)


def base_mean(run: FinishedRun, label: str) -> tuple[LoadedModel, Tensor]:
    shards = ShardSet.open(run.results["shards"].path)
    model = load_model(run.results[label].path)
    part = Part.whole(shards.split("novel"))
    candidate = Model(
        label, model, shards, part, run.root / "features", batch_size=64, loader_workers=0
    )
    assert candidate.base_mean is not None
    return model, candidate.base_mean


def test_all_splits_that_were_trained_on_count(run: FinishedRun) -> None:
    model, mean = base_mean(run, "both")
    vectors = torch.cat([embedded(run, model, split) for split in ("base", "val")])
    torch.testing.assert_close(mean, vectors.mean(0))


def test_images_set_aside_do_not_count(run: FinishedRun) -> None:
    model, mean = base_mean(run, "part")
    vectors = embedded(run, model, "base")  # what was kept of the part is not taken for the whole
    assert len(vectors) == 84
    shards = ShardSet.open(run.results["shards"].path)
    (pool,) = training_pools(model.config, shards)
    assert isinstance(pool, SubSplit)
    assert len(pool) == 63
    torch.testing.assert_close(mean, vectors[pool.rows].mean(0))
    assert not torch.allclose(mean, vectors.mean(0), atol=1e-6)


def test_what_learnt_nothing_needs_base_classes(run: FinishedRun) -> None:
    source = {
        "name": "strokes", "images": 20, "characters": 7, "base_alphabets": 0,
        "val_alphabets": 0, "novel_alphabets": 1, "size": 28,
    }  # fmt: skip
    run.run("novel", "write_shards", {"source": source}, [])
    shards = ShardSet.open(run.results["novel"].path)
    centred = [{"name": "ridge", "features": "centred"}]
    settings = {"shots": [1], "baselines": ["pixels"], "protocols": centred}
    with pytest.raises(StageError, match=r"mean of split 'base', .* or use features: none"):
        check_data(build(EvaluateConfig, settings), shards)
    check_data(build(EvaluateConfig, {**settings, "baselines": []}), shards)
