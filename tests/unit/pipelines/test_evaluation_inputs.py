"""What an evaluation may need, found out before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fsl.config import build
from fsl.errors import FewShotError
from pipelines.runner import PipelineConfig, plan

EPISODES = {"name": "fixed", "ways": 3, "shots": 1, "queries": 2}
SHARDS = {
    "kind": "write_shards",
    "source": {
        "name": "strokes", "size": 16, "images": 8, "characters": 5,
        "base_alphabets": 1, "val_alphabets": 1, "novel_alphabets": 1,
    },
}  # fmt: skip
OTHER_SHARDS = {**SHARDS, "source": {**SHARDS["source"], "size": 20}}  # type: ignore[dict-item]
EXTRACT: dict[str, Any] = {"kind": "extract_features", "needs": ["shards", "net"]}
NET = {
    "kind": "train",
    "needs": ["shards"],
    "backbone": {"name": "conv4"},
    "method": {"name": "protonet"},
    "episodes": EPISODES,
}
UNVALIDATED = {"every_epochs": 0}
OTHER_NET = {**NET, "optim": {"lr": 1e-4}}
HEAD = {"kind": "train", "needs": ["table"], "method": {"name": "awgim"}, "episodes": EPISODES}


def check(run: Path, needs: list[str], stages: dict[str, Any], **settings: Any) -> None:
    """Plan a recipe: a network, its feature table, a model on that, and an evaluation."""
    tree = {
        "shards": SHARDS, "net": NET, "table": EXTRACT, "head": HEAD,
        **stages,
        "evaluate": {"kind": "evaluate", "needs": needs, **settings},
    }  # fmt: skip
    plan(build(PipelineConfig, {"run_dir": str(run), "stages": tree}))


SECOND: dict[str, Any] = {
    "net2": OTHER_NET,
    "table2": {**EXTRACT, "needs": ["shards", "net2"]},
    "head2": {**HEAD, "needs": ["table2"]},
}


def test_a_model_is_not_asked_about_vectors_of_another_network(tmp_path: Path) -> None:
    message = r"needs: 'head2' is trained on the vectors of 'table2', those of 'table' are made by"
    with pytest.raises(FewShotError, match=message):
        check(tmp_path, ["table", "head", "head2"], SECOND)
    check(tmp_path, ["table2", "head2"], SECOND)
    last = {"table2": {**EXTRACT, "which": "last"}, "head2": SECOND["head2"]}
    with pytest.raises(FewShotError, match=message):
        check(tmp_path, ["table", "head2"], last)


@pytest.mark.parametrize(
    "changes", [{"needs": ["other", "net"]}, {"splits": ["novel"]}, {"batch_size": 8}]
)
def test_vectors_of_the_same_network_may_be_of_other_images(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    stages = {"other": OTHER_SHARDS, "table2": {**EXTRACT, **changes}}
    check(tmp_path, ["table2", "head"], stages)


def test_imported_vectors_are_those_that_were_trained_on(tmp_path: Path) -> None:
    for name in ("center", "multiview"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_embeddings.pkl").write_text(name)
    stages = {
        name: {"kind": "import_features", "leo": str(tmp_path / name)}
        for name in ("center", "multiview")
    }
    head = {"head2": {**HEAD, "needs": ["multiview"]}}
    check(tmp_path / "run", ["multiview", "head2"], stages | head)
    with pytest.raises(FewShotError, match="'head2' is trained on the vectors of 'multiview'"):
        check(tmp_path / "run", ["center", "head2"], stages | head)


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (["shards", "net", "head"], "needs: 'head' is trained on the vectors of 'table'; list tab"),
        (["table", "net"], "needs: 'net' is trained on images; list the stage that gives the sha"),
        (["net"], "needs: list the stage that gives the shards, or the features"),
    ],
)
def test_what_a_model_looks_at_must_be_needed(
    tmp_path: Path, needs: list[str], message: str
) -> None:
    with pytest.raises(FewShotError, match=message):
        check(tmp_path, needs, {})
    check(tmp_path, ["shards", "table", "net", "head"], {})


@pytest.mark.parametrize("stage", [EXTRACT, NET])
def test_no_competitor_is_called_like_a_baseline(tmp_path: Path, stage: dict[str, Any]) -> None:
    with pytest.raises(FewShotError, match="stage is called 'pixels' like a baseline; rename it"):
        check(tmp_path, ["shards", "pixels"], {"pixels": stage}, baselines=["pixels"])
    check(tmp_path, ["pixels", "net"], {"pixels": SHARDS}, baselines=["pixels"])


def test_a_split_that_was_trained_on_is_refused(tmp_path: Path) -> None:
    both = {**HEAD, "data": {"split": ["base", "val"]}, "validation": UNVALIDATED}
    message = "split: 'val', but '{}' is trained on its classes; name a split of classes that are"
    needs = ["table", "both"]
    with pytest.raises(FewShotError, match=message.format("both")):
        check(tmp_path, needs, {"both": both}, split="val")
    check(tmp_path, needs, {"both": both}, split="novel")
    check(tmp_path, ["table", "head"], {"both": both}, split="val")  # validated on it, to choose


def test_so_is_one_that_the_model_before_was_trained_on(tmp_path: Path) -> None:
    stages = {
        "first": {**NET, "data": {"split": "val"}, "validation": UNVALIDATED},
        "second": {**NET, "needs": ["shards", "first"], "validation": UNVALIDATED},
    }
    with pytest.raises(FewShotError, match="split: 'val', but 'first' is trained on its"):
        check(tmp_path, ["shards", "second"], stages, split="val")
    for split in ("base", "held_out"):  # other images of the same classes
        with pytest.raises(FewShotError, match=f"split: '{split}', but 'net' is trained on its"):
            check(tmp_path, ["table"], {}, split=split)


def test_classes_of_other_images_are_new(tmp_path: Path) -> None:
    check(tmp_path, ["other", "net"], {"other": OTHER_SHARDS}, split="base")


CENTRED = [{"name": "ridge", "features": "centred_l2"}]


@pytest.mark.parametrize(
    ("needs", "stages", "message"),
    [
        (["other", "net"], {"other": OTHER_SHARDS}, "'net' is trained on, 'shards', which is not"),
        (
            ["table2", "head"],
            {"other": OTHER_SHARDS, "table2": {**EXTRACT, "needs": ["other", "net"]}},
            "'head' is trained on, 'table', which is not in needs; .* or use features: l2",
        ),
        (
            ["table2"],
            {"table2": {**EXTRACT, "splits": ["novel"]}},
            "subtracts the mean of split 'base', which 'table2' lacks; extract or write split base",
        ),
    ],
)
def test_centring_needs_the_images_that_were_trained_on(
    tmp_path: Path, needs: list[str], stages: dict[str, Any], message: str
) -> None:
    with pytest.raises(
        FewShotError, match=f"protocols: ridge with features: centred_l2 .*{message}"
    ):
        check(tmp_path, needs, stages, protocols=CENTRED)
    check(tmp_path, needs, stages)
    check(tmp_path, ["shards", "net", "table", "head"], stages, protocols=CENTRED)
