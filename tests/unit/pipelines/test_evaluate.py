"""The evaluate stage: sealed episodes, cached features, numbers that can be traced."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

import pipelines.features
from data_shards.episodes import EpisodeBank
from data_shards.manifest import ShardSet
from fsl.config import build
from fsl.episode_heads import build_head
from fsl.errors import ConfigError, FewShotError, StageError
from fsl.evaluation import prototype_scores
from fsl.student import student_t
from fsl.task_scores import method_scores
from pipelines.accuracies import read_summary, read_table
from pipelines.competitors import Questions
from pipelines.features import Part, model_features, pixel_features
from pipelines.image_store import Images, ImageStore
from pipelines.model import load_model
from pipelines.stages.evaluate import EvaluateConfig, EvaluateStage
from tests.finished_run import FinishedRun

SETTINGS: dict[str, object] = {"tasks": 12, "queries": 3, "baselines": ["pixels"], "shots": [1, 2]}
NEEDS = ["shards", "pretrain", "distill"]
CTX: dict[str, object] = {
    "method": {"name": "crosstransformer", "key_dim": 4, "value_dim": 4},
    "episodes": {"name": "fixed", "ways": 2, "shots": 1, "queries": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    made = FinishedRun(tmp_path_factory.mktemp("evaluate"))
    made.shards()
    made.model("pretrain", "masked_distillation", ["shards"])
    made.model("distill", "smkd", ["shards", "pretrain"])
    made.untrained("ctx", CTX, ["shards"])
    made.run("evaluate", "evaluate", SETTINGS, NEEDS)
    return made


def test_metrics_are_flat_and_name_model_and_setting(run: FinishedRun) -> None:
    metrics = run.results["evaluate"].metrics
    assert 0.2 < metrics["pixels_prototype_5w2s"] <= 1
    assert metrics["distill_prototype_5w1s_ci95"] > 0
    difference = metrics["distill_minus_pretrain_prototype_5w1s"]
    means = metrics["distill_prototype_5w1s"] - metrics["pretrain_prototype_5w1s"]
    assert difference == pytest.approx(means)


def test_table_holds_every_episode_of_every_model(run: FinishedRun) -> None:
    out = run.results["evaluate"].path
    table = pq.read_table(str(out / "accuracies.parquet"))
    assert table.num_rows == 3 * 2 * 12
    scored = read_table(out)
    assert [item.model for item in scored] == ["pixels"] * 2 + ["pretrain"] * 2 + ["distill"] * 2
    entry = read_summary(out)["results"][0]
    assert float(scored[0].scores.accuracies.mean()) == pytest.approx(entry["mean"])
    assert entry["text"].endswith("% (12 tasks)")


def test_all_models_answer_the_same_episodes(run: FinishedRun) -> None:
    scored = {
        (s.model, s.setting.shots): s.classes for s in read_table(run.results["evaluate"].path)
    }
    for shots in (1, 2):
        assert torch.equal(scored["pixels", shots], scored["distill", shots])


def test_a_second_run_reads_the_features_instead_of_the_images(
    run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("features were computed again")

    before = run.results["evaluate"].metrics
    monkeypatch.setattr(pipelines.features, "prepared_batches", never)
    assert run.run("evaluate", "evaluate", SETTINGS, NEEDS).metrics == before


def test_damaged_features_are_computed_again(run: FinishedRun) -> None:
    before = run.results["evaluate"].metrics
    for place in (run.results["evaluate"].path / "features").list():
        place.write_bytes(place.read_bytes()[:200])
    assert run.run("evaluate", "evaluate", SETTINGS, NEEDS).metrics == before


def test_classifier_and_all_remaining_queries(run: FinishedRun) -> None:
    settings: dict[str, object] = {
        "tasks": 4, "queries": "all", "shots": [1], "ways": [2, 5],
        "protocols": ["method", "ridge", {"name": "classifier", "epochs": 3}],
    }  # fmt: skip
    other = run.run("other", "evaluate", settings, ["shards", "distill"])
    assert {key for key in other.metrics if key.startswith("distill_classifier")} >= {
        "distill_classifier_2w1s",
        "distill_classifier_5w1s",
    }
    assert read_summary(other.path)["results"][0]["queries_per_episode"] == 2 * 11


def test_episodes_with_all_classes_get_a_bound_over_classes(run: FinishedRun) -> None:
    settings = {**SETTINGS, "shots": [1], "ways": [5, 7]}
    summary = read_summary(run.run("ways", "evaluate", settings, NEEDS).path)
    entries = [*summary["results"], *summary["differences"]]
    assert {entry["ways"]: entry["class_at_most"] for entry in entries} == {5: False, 7: True}
    assert all(entry["class_half_width"] > 0 for entry in entries if entry["ways"] == 7)
    bound = next(entry for entry in summary["differences"] if entry["ways"] == 7)
    pixels, pretrain = (
        torch.tensor(entry["per_class"], dtype=torch.float64)
        for entry in summary["results"]
        if entry["ways"] == 7 and entry["model"] in {"pixels", "pretrain"}
    )
    assert (bound["a"], bound["b"]) == ("pixels", "pretrain")
    spread = float((pretrain - pixels).std())
    assert bound["class_half_width"] == pytest.approx(2 * student_t(6) * spread / 7**0.5)


@pytest.mark.parametrize("queries", [2, "all"])
def test_only_images_that_an_episode_names_are_read_and_encoded(
    queries: int | str, run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, object] = {
        "tasks": 3, "queries": queries, "shots": [1], "ways": 2, "baselines": ["pixels"],
        "protocols": ["method", "prototype", {"name": "ridge", "features": "centred"}],
    }  # fmt: skip
    split = ShardSet.open(run.results["shards"].path).split("novel")
    bank = EpisodeBank.make(split, 2, 1, None if queries == "all" else 2, 3, 0)
    if bank.query is None:
        named = np.flatnonzero(np.isin(split.labels, bank.classes))
    else:
        named = np.unique(np.concatenate([bank.support, bank.query], -1))
    assert len(named) < len(split)
    asked: list[int] = []
    images = ImageStore.images

    def noted(store: ImageStore, rows: NDArray[np.int64]) -> Images:
        asked.extend(rows.tolist() if store.split.name == "novel" else [])
        return images(store, rows)

    monkeypatch.setattr(ImageStore, "images", noted)
    place = run.run(f"few {queries}", "evaluate", settings, ["shards", "ctx"]).path
    assert sorted(asked) == sorted(3 * named.tolist())  # pixels, embed and encode
    monkeypatch.undo()
    answered = {
        (item.model, item.setting.protocol): item.scores.correct for item in read_table(place)
    }
    model = load_model(run.results["ctx"].path)
    whole = Part.whole(split)
    encoded = model_features(model, whole, place / "all", batch_size=16, what="encode")
    assert encoded.ndim == 3  # images, positions, keys and values
    labels, _, support, query, _ = astuple(Questions.of(bank, split))
    expected = method_scores(model.method, encoded, labels, support, query)
    assert torch.equal(answered["ctx", "method"], expected.correct)
    pixels = pixel_features(whole, model.images, place / "all", 16)
    expected = prototype_scores(pixels, labels, support, query)
    assert torch.equal(answered["pixels", "prototype"], expected.correct)
    vectors = model_features(model, whole, place / "all", batch_size=16)
    base = Part.whole(split.shard_set.split("base"))
    mean = model_features(model, base, place / "all", batch_size=16).mean(0)
    head = build_head({"name": "ridge", "features": "centred"})
    expected = head.scores(vectors, labels, support, query, base_mean=mean)
    assert torch.equal(answered["ctx", "ridge"], expected.correct)


def test_features_of_a_whole_split_keep_their_file(run: FinishedRun) -> None:
    """Its name is that of before rows could be chosen: old files are still found."""
    split = ShardSet.open(run.results["shards"].path).split("novel")
    some, whole = Part(split, np.arange(5)), Part.whole(split)
    assert whole.identity() == {"data": split.shard_set.digest, "split": "novel"}
    assert some.identity().keys() == {"data", "split", "rows"}
    assert some.identity() != Part(split, np.arange(1, 6)).identity()


def test_more_ways_than_classes_are_refused(run: FinishedRun) -> None:
    with pytest.raises(ConfigError, match="ways: 8 classes per episode, but split 'novel' has 7"):
        run.run("wrong", "evaluate", {**SETTINGS, "ways": 8}, NEEDS)


def test_an_unknown_split_is_refused(run: FinishedRun) -> None:
    with pytest.raises(FewShotError, match=r"novell.*did you mean 'novel'"):
        run.run("wrong", "evaluate", {**SETTINGS, "split": "novell"}, NEEDS)


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(StageError, match="list a train stage in needs"):
        EvaluateStage(build(EvaluateConfig, {})).check({})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": []}, "shots: .*at least 1 item"),
        ({"ways": []}, "ways.*: .*at least 1 item"),
        ({"protocols": []}, "protocols: .*at least 1 item"),
        ({"shots": [1, 1]}, "shots: .*each entry once"),
        ({"ways": [5, 5]}, "ways: .*each entry once"),
        ({"protocols": ["ridge", "ridge"]}, "protocols: .*each entry once"),
        ({"baselines": ["pixels", "pixels"]}, "baselines: .*each entry once"),
        ({"protocols": ["knn"]}, "protocols.*: .*knn"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(EvaluateConfig, settings)


def test_missing_checkpoints_name_the_stage(run: FinishedRun, tmp_path: Path) -> None:
    del tmp_path
    pointer = run.results["distill"].path / "best.json"
    kept = pointer.read_text()
    pointer.delete()
    with pytest.raises(FewShotError, match="distill-bbbb"):
        run.run("wrong", "evaluate", SETTINGS, NEEDS)
    pointer.write_text(kept)
