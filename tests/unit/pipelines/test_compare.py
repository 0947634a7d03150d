"""`compare`: which answers are put side by side, how they are called, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import stdev

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_shards.location import Location
from fsl.statistics import paired_difference
from pipelines.accuracies import TABLE, read_table
from pipelines.compare import compare
from pipelines.compare.comparison import Comparison
from tests.evaluated_run import EvaluatedRun
from tests.finished_run import FinishedRun

SMALL = {"tasks": 60, "shots": [1]}


def names(comparison: Comparison, panel: int = 0) -> list[str]:
    return [row.name for row in comparison.panels[panel].rows]


def run(root: Path, **models: float) -> Path:
    EvaluatedRun(root, models, settings=SMALL).write()
    return root


def seeds(root: Path, level: float, lr: float, count: int = 3) -> list[Path]:
    """A recipe run with several seeds, each in a directory of its own."""
    roots = [root.with_name(f"{root.name}_seed{seed}") for seed in range(count)]
    for seed, place in enumerate(roots):
        EvaluatedRun(place, {"train": level}, seed=seed, lr=lr, settings=SMALL).write()
    return roots


def test_methods_of_one_run_are_called_by_their_labels_best_first(tmp_path: Path) -> None:
    run(tmp_path / "smkd", pretrain=0.7, distill=0.8)
    (panel,) = compare([tmp_path / "smkd"]).panels
    assert [row.name for row in panel.rows] == ["distill", "pretrain"]
    assert (panel.title, panel.bank.tasks, panel.classes) == ("5-way 1-shot", 60, 20)


def test_a_difference_is_taken_episode_by_episode(tmp_path: Path) -> None:
    place = EvaluatedRun(tmp_path / "a", {"x": 0.7, "y": 0.8}, settings=SMALL).write()
    x, y = (item.scores.accuracies for item in read_table(Location.parse(place)))
    (panel,) = compare([place]).panels
    expected = paired_difference(x, y)
    found = panel.differences[0, 1]
    assert found.mean == pytest.approx(expected.mean)
    assert found.half_width == pytest.approx(expected.half_width, rel=0.03)  # 1.96 or Student's t
    assert panel.differences[1, 0].mean == -found.mean


def test_seeds_of_a_recipe_are_averaged_episode_by_episode(tmp_path: Path) -> None:
    ours = seeds(tmp_path / "ours", 0.8, lr=0.1)
    theirs = seeds(tmp_path / "theirs", 0.7, lr=0.2)
    comparison = compare([*ours, *theirs])
    assert names(comparison) == ["ours", "theirs"]
    row = comparison.panels[0].rows[0]
    tables = [
        read_table(Location.parse(next(place.glob("evaluate-*"))))[0].scores.accuracies
        for place in ours
    ]
    torch.testing.assert_close(row.values, sum(tables[1:], tables[0]) / 3)
    assert row.runs == 3
    assert row.run_sd == pytest.approx(stdev(float(table.mean()) for table in tables))


def test_seeds_in_one_run_directory_are_found_too(tmp_path: Path) -> None:
    for seed in range(2):
        models = {"train": 0.8, "other": 0.7}
        EvaluatedRun(tmp_path / "run", models, seed=seed, settings=SMALL).write()
    assert [row.runs for row in compare([tmp_path / "run"]).panels[0].rows] == [2, 2]


def test_seeds_can_be_kept_apart(tmp_path: Path) -> None:
    for seed in range(2):
        EvaluatedRun(tmp_path / "run", {"train": 0.8}, seed=seed, settings=SMALL).write()
    comparison = compare([tmp_path / "run"], by="seed")
    assert sorted(names(comparison)) == ["train seed 0", "train seed 1"]


def test_settings_that_cannot_change_a_result_do_not_part_seeds(tmp_path: Path) -> None:
    for seed in range(2):
        root = tmp_path / f"seed{seed}" / "ours"
        EvaluatedRun(root, {"train": 0.8}, seed=seed, settings=SMALL).write()
        (config,) = root.glob("train-*/config.json")
        content = json.loads(config.read_text())
        content["config"]["log_every"] = 5 + seed
        config.write_text(json.dumps(content))
    other = run(tmp_path / "other", train=0.5)
    again = tmp_path / "other"
    for config in again.glob("train-*/config.json"):
        config.write_text(config.read_text().replace("0.001", "0.005"))
    rows = compare([tmp_path / "seed0/ours", tmp_path / "seed1/ours", other]).panels[0].rows
    assert [(row.name, row.runs) for row in rows] == [("ours", 2), ("other", 1)]


def test_older_settings_in_a_run_directory_are_left_out_with_a_note(tmp_path: Path) -> None:
    root = tmp_path / "run"
    models = {"train": 0.8, "other": 0.7}
    old = EvaluatedRun(root, models, lr=0.5, settings=SMALL, finished="2025-01-01").write()
    new = EvaluatedRun(root, models, lr=0.1, settings=SMALL, finished="2025-01-02").write()
    comparison = compare([root])
    assert {item.place.name for row in comparison.panels[0].rows for item in row.answers} == {
        new.name
    }
    assert f"left out with other settings: {old.name}" in comparison.notes[0]
    assert len(names(compare([old, new]))) == 4


def test_several_runs_are_called_by_their_names_and_labels_only_where_needed(
    tmp_path: Path,
) -> None:
    EvaluatedRun(tmp_path / "protonet", {"train": 0.8}, lr=0.1, settings=SMALL).write()
    EvaluatedRun(tmp_path / "smkd", {"pretrain": 0.6, "distill": 0.7}, settings=SMALL).write()
    paths = [tmp_path / "protonet", tmp_path / "smkd"]
    assert names(compare(paths)) == ["protonet", "smkd distill", "smkd pretrain"]
    assert names(compare(paths, labels=["train", "distill"])) == ["protonet", "smkd"]


def test_runs_of_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for number in (1, 2):
        root = tmp_path / f"trial{number}" / "run"
        EvaluatedRun(root, {"train": 0.7}, lr=0.1 * number, settings=SMALL).write()
    found = names(compare([tmp_path / "trial1/run", tmp_path / "trial2/run"]))
    assert sorted(found) == ["train trial1", "train trial2"]


def test_a_baseline_of_several_runs_is_one_row(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        EvaluatedRun(
            tmp_path / name,
            {"train": 0.7},
            lr=number + 1,
            settings=SMALL,
            baselines={"pixels": 0.4},
        ).write()
    rows = compare([tmp_path / "a", tmp_path / "b"]).panels[0].rows
    assert [(row.name, row.runs, row.trained) for row in rows][-1] == ("pixels", 1, False)
    assert len(rows) == 3


def test_a_run_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    place = EvaluatedRun(tmp_path / "a", {"x": 0.7, "y": 0.8}, settings=SMALL).write()
    comparison = compare([tmp_path / "a", place])
    assert [row.runs for row in comparison.panels[0].rows] == [1, 1]


def test_the_protocol_method_stands_for_the_model(tmp_path: Path) -> None:
    EvaluatedRun(
        tmp_path / "a", {"x": 0.8}, settings=SMALL, protocols=("method", "prototype")
    ).write()
    assert sorted(names(compare([tmp_path / "a"]))) == ["x", "x (prototype)"]


def test_a_prototype_that_is_the_method_itself_is_not_shown_again(tmp_path: Path) -> None:
    place = EvaluatedRun(
        tmp_path / "a", {"x": 0.8, "y": 0.7}, settings=SMALL, protocols=("method", "prototype")
    ).write()
    table = pq.read_table(place / TABLE)
    own = table.filter(pa.compute.equal(table["protocol"], "method"))
    same = own.set_column(
        own.column_names.index("protocol"),
        "protocol",
        pa.array(["prototype"] * len(own)).cast(own["protocol"].type),
    )
    pq.write_table(pa.concat_tables([own, same]).unify_dictionaries(), place / TABLE)
    summary = json.loads((place / "summary.json").read_text())
    means = {
        item["model"]: item["mean"] for item in summary["results"] if item["protocol"] == "method"
    }
    for item in summary["results"]:
        item["mean"] = means[item["model"]]
    (place / "summary.json").write_text(json.dumps(summary))
    assert names(compare([place])) == ["x", "y"]


def test_training_time_is_that_of_all_stages_behind_a_model(tmp_path: Path) -> None:
    EvaluatedRun(
        tmp_path / "a", {"first": 0.7, "second": 0.8}, settings=SMALL, chain=True, cpu_minutes=10
    ).write()
    rows = compare([tmp_path / "a"]).panels[0].rows
    assert {row.name: row.cpu_minutes for row in rows} == {"first": 10, "second": 20}


def test_training_time_is_unknown_when_a_stage_did_not_record_it(tmp_path: Path) -> None:
    EvaluatedRun(tmp_path / "a", {"x": 0.7, "y": 0.8}, settings=SMALL, cpu_minutes=None).write()
    assert [row.cpu_minutes for row in compare([tmp_path / "a"]).panels[0].rows] == [None, None]


def test_ways_and_shots_get_a_table_each_and_can_be_chosen(tmp_path: Path) -> None:
    EvaluatedRun(tmp_path / "a", {"x": 0.7, "y": 0.8}, settings={"tasks": 60}).write()
    assert [panel.title for panel in compare([tmp_path / "a"]).panels] == [
        "5-way 1-shot",
        "5-way 5-shot",
    ]
    assert [panel.title for panel in compare([tmp_path / "a"], shots=[5]).panels] == [
        "5-way 5-shot"
    ]


def test_a_baseline_can_be_named(tmp_path: Path) -> None:
    run(tmp_path / "a", x=0.7, y=0.8, z=0.9)
    (panel,) = compare([tmp_path / "a"], baseline="y").panels
    difference = panel.against_reference(2)
    assert panel.rows[panel.reference].name == "y"
    assert difference is not None
    assert difference.mean < 0
    assert panel.against_reference(1) is None


def test_a_directory_can_be_moved(tmp_path: Path) -> None:
    run(tmp_path / "a", x=0.7, y=0.8)
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    assert names(compare([tmp_path / "elsewhere"])) == ["y", "x"]


def test_what_an_evaluate_stage_really_writes_can_be_compared(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path)
    run.shards()
    run.model("pretrain", "masked_distillation", ["shards"])
    run.model("distill", "smkd", ["shards", "pretrain"])
    settings = {"tasks": 60, "baselines": ["pixels"], "shots": [1], "queries": 5}
    evaluate = run.run("evaluate", "evaluate", settings, ["shards", "pretrain", "distill"])
    (panel,) = compare([tmp_path]).panels
    assert sorted(row.name for row in panel.rows) == ["distill", "pixels", "pretrain"]
    for row in panel.rows:
        assert row.mean.mean == pytest.approx(evaluate.metrics[f"{row.name}_prototype_5w1s"])


def test_heads_of_one_name_with_other_settings_are_other_methods(tmp_path: Path) -> None:
    for number, strength in enumerate((0.1, 10.0)):
        place = EvaluatedRun(
            tmp_path / f"seed{number}" / "ours",
            {"train": 0.8},
            seed=number,
            settings=SMALL,
            protocols=("logistic",),
        ).write()
        summary = json.loads((place / "summary.json").read_text())
        summary["protocols"] = [{"name": "logistic", "strength": strength}]
        (place / "summary.json").write_text(json.dumps(summary))
    found = compare([tmp_path / "seed0/ours", tmp_path / "seed1/ours"])
    assert sorted(names(found)) == ["train seed 0", "train seed 1"]
