"""`compare`: what counts as another training, and what is only the same one again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from data_shards.location import Location
from fsl.errors import ConfigError
from pipelines.accuracies import read_table, result_entry, write_table
from pipelines.compare import compare
from pipelines.compare.comparison import Comparison
from pipelines.compare.panel import Row
from pipelines.compare.words import cautions
from tests.evaluated_run import EvaluatedRun

SMALL = {"tasks": 60, "shots": [1]}


def row(comparison: Comparison, name: str) -> Row:
    return next(row for row in comparison.panels[0].rows if row.name == name)


def test_the_same_weights_asked_on_another_machine_are_no_second_training(tmp_path: Path) -> None:
    for folder, level in (("here", 0.8), ("there", 0.805)):  # answers differ, weights do not
        models = {"x": level, "y": 0.6}
        EvaluatedRun(tmp_path / folder / "run", models, settings=SMALL).write()
    found = compare([tmp_path / "here/run", tmp_path / "there/run"])
    assert [one.runs for one in found.panels[0].rows] == [1, 1]
    (difference,) = (d for (i, j), d in found.panels[0].differences.items() if i < j)
    assert math.isnan(difference.run_half_width)
    assert "trained once" in " ".join(cautions(found.panels))
    (note,) = (note for note in found.notes if ": x is the same model as in" in note)
    assert "points apart; left out" in note


def test_trainings_with_one_seed_count_as_one(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        models = {"x": 0.8, "y": 0.6}
        place = EvaluatedRun(tmp_path / folder / "run", models, settings=SMALL).write()
        summary = json.loads((place / "summary.json").read_text())
        for entry in summary["models"]:  # as after training with another number of workers
            entry["weights"] += folder
        (place / "summary.json").write_text(json.dumps(summary))
    found = compare([tmp_path / "here/run", tmp_path / "there/run"])
    assert (row(found, "x").runs, len(row(found, "x").answers)) == (1, 2)
    assert math.isnan(row(found, "x").run_sd)
    assert any("x: trained several times with seed 0, counted once" in note for note in found.notes)
    assert "Every method was trained once" in " ".join(cautions(found.panels))


@pytest.mark.parametrize(("contents", "methods"), [("aa", 1), ("ab", 2)])
def test_a_file_of_weights_counts_by_its_content(
    tmp_path: Path, contents: str, methods: int
) -> None:
    for seed, content in enumerate(contents):
        start = (f"weights/of machine {seed}.safetensors", content)
        EvaluatedRun(
            tmp_path / f"run{seed}", {"x": 0.8}, seed, settings=SMALL, pretrained=start,
            baselines={"pixels": 0.4},
        ).write()  # fmt: skip
    found = compare([tmp_path / "run0", tmp_path / "run1"])
    assert len([name for name in found.names if name != "pixels"]) == methods
    assert row(found, found.names[0]).runs == 3 - methods


def test_two_trainings_with_one_seed_weigh_as_one(tmp_path: Path) -> None:
    """The mean is that of the runs that the table counts."""
    for folder, seed, level in (("a", 0, 0.9), ("b", 0, 0.9), ("c", 1, 0.6)):
        run = EvaluatedRun(tmp_path / folder / "run", {"x": level}, seed, settings=SMALL,
                           baselines={"pixels": 0.4}, cpu_minutes=10.0 * (seed + 1))  # fmt: skip
        place = run.write()
        summary = json.loads((place / "summary.json").read_text())
        for entry in summary["models"]:  # as after training on another machine
            entry["weights"] += folder * (entry["label"] == "x")
        (place / "summary.json").write_text(json.dumps(summary))
    found = row(compare([tmp_path / folder / "run" for folder in "abc"]), "x")
    assert (found.runs, len(found.answers)) == (2, 3)
    assert found.mean.mean == pytest.approx(fmean(found.run_means))
    assert float(found.ways.mean()) == pytest.approx(fmean(found.run_means))
    assert found.cpu_minutes == pytest.approx(15.0)


def test_seeds_that_stand_apart_are_seeds_nevertheless(tmp_path: Path) -> None:
    for seed in range(3):
        EvaluatedRun(tmp_path / "run", {"train": 0.8}, seed=seed, settings=SMALL).write()
    found = compare([tmp_path / "run"], by="seed")
    assert len(found.panels[0].rows) == 3
    assert "trained once" not in " ".join(cautions(found.panels))


@pytest.mark.parametrize("shared", [True, False])
def test_seeds_of_a_last_stage_on_one_pretraining_are_called_that(
    tmp_path: Path, shared: bool
) -> None:
    for seed in range(2):
        models = {"first": 0.6, "second": 0.8}
        EvaluatedRun(tmp_path / f"seed{seed}", models, seed, settings=SMALL, chain=True).write()
    if shared:
        for config in tmp_path.glob("*/first-*/config.json"):
            config.write_text(json.dumps(json.loads(config.read_text()) | {"key": "the same"}))
    found = compare([tmp_path / "seed0", tmp_path / "seed1"])
    said = "second start from one earlier training" in " ".join(cautions(found.panels))
    assert said is shared


def test_heads_that_are_right_everywhere_stay_in_the_table(tmp_path: Path) -> None:
    """At 100 % two protocols answer alike without being the same."""
    place = EvaluatedRun(
        tmp_path / "run", {"x": 2.0}, settings=SMALL, protocols=("method", "ridge")
    ).write()
    summary = json.loads((place / "summary.json").read_text())
    assert {entry["mean"] for entry in summary["results"]} == {1.0}
    assert {one.name for one in compare([place]).panels[0].rows} == {"x", "x (ridge)"}


def test_a_prototype_that_differs_on_one_bank_stays_on_all(tmp_path: Path) -> None:
    settings = {"tasks": 60, "shots": [1, 5]}
    place = EvaluatedRun(
        tmp_path / "run", {"x": 0.8}, settings=settings, protocols=("method", "prototype")
    ).write()
    own, other, own5, _ = sorted(
        read_table(Location.parse(place)), key=lambda one: (one.setting.shots, one.setting.protocol)
    )
    alike = replace(own5, setting=replace(own5.setting, protocol="prototype"))
    scored = [own, other, own5, alike]
    write_table(scored, Location.parse(place))
    summary = json.loads((place / "summary.json").read_text())
    summary["results"] = [result_entry(one, 20) for one in scored]
    (place / "summary.json").write_text(json.dumps(summary))
    assert [len(panel.rows) for panel in compare([place]).panels] == [2, 2]


def test_one_method_alone_is_told_by_which_options(tmp_path: Path) -> None:
    EvaluatedRun(tmp_path / "run", {"x": 0.8, "y": 0.7}, settings=SMALL).write()
    with pytest.raises(ConfigError, match="name another run, or fewer of --labels and --protocol"):
        compare([tmp_path / "run"], labels=["x"])
