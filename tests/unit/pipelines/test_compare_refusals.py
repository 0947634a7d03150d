"""`compare` refuses what cannot be compared, and says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_shards.location import Location
from fsl.errors import FewShotError
from pipelines.accuracies import TABLE, read_table
from pipelines.compare import compare
from tests.evaluated_run import EvaluatedRun

SMALL = {"tasks": 60, "shots": [1]}


def evaluated(root: Path, lr: float = 0.1, data: str = "data", **settings: Any) -> Path:
    run = EvaluatedRun(root, {"train": 0.8}, lr=lr, settings={**SMALL, **settings}, data=data)
    return run.write()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"data": "other"}, r"other data \(digest \w{12} instead of \w{12}\)"),
        ({"seed": 1}, "episodes drawn with seed 1 instead of 0. Set seed in the evaluate stage"),
        ({"tasks": 50}, "50 instead of 60 episodes. Evaluate them with the same"),
        ({"queries": "all"}, "queries per class: all instead of 15"),
        ({"split": "val"}, "split 'val' instead of 'novel'"),
    ],
)
def test_runs_on_other_episodes_are_not_compared_and_the_reason_is_given(
    tmp_path: Path, other: dict[str, Any], reason: str
) -> None:
    evaluated(tmp_path / "a")
    evaluated(tmp_path / "b", lr=0.2, **other)
    with pytest.raises(FewShotError, match=f"b .seed 0. did not answer .* as a .*{reason}"):
        compare([tmp_path / "a", tmp_path / "b"])


def test_what_is_comparable_is_compared_and_the_rest_noted(tmp_path: Path) -> None:
    evaluated(tmp_path / "a")
    evaluated(tmp_path / "b", lr=0.2)
    evaluated(tmp_path / "c", lr=0.3, data="other")
    comparison = compare([tmp_path / "c", tmp_path / "a", tmp_path / "b"])
    (panel,) = comparison.panels
    assert sorted(row.name for row in panel.rows) == ["a", "b"]
    (note,) = comparison.notes
    assert "c (seed 0) did not answer the same episodes as a (seed 0) and b (seed 0)" in note


def test_two_groups_on_other_episodes_get_a_table_each(tmp_path: Path) -> None:
    for number, name in enumerate("abcd"):
        evaluated(tmp_path / name, lr=number + 1, seed=number // 2)
    comparison = compare([tmp_path / name for name in "abcd"])
    titles = [panel.title for panel in comparison.panels]
    assert titles == ["5-way 1-shot, episodes of seed 0", "5-way 1-shot, episodes of seed 1"]
    assert len(comparison.notes) == 1


def test_a_setting_that_one_run_has_alone_is_noted(tmp_path: Path) -> None:
    evaluated(tmp_path / "a", shots=[1, 5])
    evaluated(tmp_path / "b", lr=0.2)
    comparison = compare([tmp_path / "a", tmp_path / "b"])
    assert [panel.title for panel in comparison.panels] == ["5-way 1-shot"]
    assert comparison.notes == [
        "5-way 5-shot: only a (seed 0) answered all of it, so it is in no table."
    ]


def test_a_table_with_other_classes_under_the_same_bank_is_refused(tmp_path: Path) -> None:
    evaluated(tmp_path / "a")
    place = evaluated(tmp_path / "b", lr=0.2)
    table = pq.read_table(place / TABLE)
    turned = table["classes"].combine_chunks().to_pylist()
    turned = [list(reversed(row)) for row in turned]
    number = table.column_names.index("classes")
    pq.write_table(table.set_column(number, "classes", [turned]), place / TABLE)
    with pytest.raises(FewShotError, match="one was changed; delete it"):
        compare([tmp_path / "a", tmp_path / "b"])


def cut_table(place: Path) -> None:
    content = (place / TABLE).read_bytes()
    (place / TABLE).write_bytes(content[: len(content) // 2])


def cut_summary(place: Path) -> None:
    (place / "summary.json").write_text((place / "summary.json").read_text()[:100])


def other_mean(place: Path) -> None:
    summary = json.loads((place / "summary.json").read_text())
    summary["results"][0]["mean"] += 0.01
    (place / "summary.json").write_text(json.dumps(summary))


def no_split(place: Path) -> None:
    summary = json.loads((place / "summary.json").read_text())
    del summary["split"]
    (place / "summary.json").write_text(json.dumps(summary))


def no_banks(place: Path) -> None:
    summary = json.loads((place / "summary.json").read_text())
    summary["banks"] = []
    (place / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize("damage", [cut_table, cut_summary, other_mean, no_split, no_banks])
def test_damaged_results_are_refused_with_the_place_and_the_remedy(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    evaluated(tmp_path / "a")
    place = evaluated(tmp_path / "b", lr=0.2)
    damage(place)
    with pytest.raises(FewShotError) as error:
        compare([tmp_path / "a", tmp_path / "b"])
    assert str(place) in str(error.value)
    assert f"delete {place} and run the recipe again" in str(error.value)


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    place = evaluated(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("no run")
    train = next((tmp_path / "run").glob("train-*"))
    cases = {
        tmp_path / "nowhere": "no such directory; name a run",
        tmp_path / "file.txt": "no such directory; name a run",
        tmp_path / "empty": "not a run directory: it holds no stage",
        train: "a stage of kind 'train', not evaluate or classify; name the run",
    }
    for path, words in cases.items():
        with pytest.raises(FewShotError, match=words):
            compare([path])
    (place / "result.json").unlink()
    with pytest.raises(FewShotError, match=f"{place.name} was begun and not finished"):
        compare([tmp_path / "run"])
    with pytest.raises(FewShotError, match="this evaluate stage was begun and not finished"):
        compare([place])
    for item in place.iterdir():
        item.unlink()
    place.rmdir()
    with pytest.raises(FewShotError, match="none was begun; run its recipe"):
        compare([tmp_path / "run"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": ["pretrian"]}, "--labels: nothing has 'pretrian'; did you mean 'pretrain'"),
        ({"shots": [3]}, "--shots: nothing has 3; there is 1"),
        ({"ways": [20]}, "--ways: nothing has 20; there is 5"),
        ({"protocols": ["method"]}, "--protocol: nothing has 'method'; there is prototype"),
        ({"baseline": "distil"}, "--baseline: no method is called 'distil'; did you mean"),
        ({"labels": ["distill"]}, "only one method, distill: a comparison needs two"),
    ],
)
def test_unknown_names_and_lonely_methods_are_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    EvaluatedRun(tmp_path / "run", {"pretrain": 0.7, "distill": 0.8}, settings=SMALL).write()
    with pytest.raises(FewShotError, match=words):
        compare([tmp_path / "run"], **options)


def test_options_that_leave_nothing_together_are_refused(tmp_path: Path) -> None:
    EvaluatedRun(tmp_path / "a", {"x": 0.7}, settings=SMALL).write()
    EvaluatedRun(tmp_path / "b", {"y": 0.7}, settings={**SMALL, "shots": [5]}).write()
    with pytest.raises(FewShotError, match="nothing has all that"):
        compare([tmp_path / "a", tmp_path / "b"], labels=["x"], shots=[5])


def test_methods_that_answered_two_banks_are_in_two_tables_without_a_note(tmp_path: Path) -> None:
    for name, lr in (("a", 0.1), ("b", 0.2)):
        for label, split in (("choose", "val"), ("evaluate", "novel")):
            run = EvaluatedRun(
                tmp_path / name, {"train": 0.8}, lr=lr, settings={**SMALL, "split": split},
                label=label,
            )  # fmt: skip
            run.write()
    evaluated(tmp_path / "c", lr=0.3)
    comparison = compare([tmp_path / name for name in "abc"])
    assert [panel.title for panel in comparison.panels] == [
        "5-way 1-shot, split val", "5-way 1-shot, split novel",
    ]  # fmt: skip
    assert not [note for note in comparison.notes if "did not answer" in note]


def test_pixels_are_one_row_whatever_the_size_of_the_networks_images(tmp_path: Path) -> None:
    for number, size in enumerate((84, 224)):
        root = tmp_path / f"run{size}"
        EvaluatedRun(
            root, {"x": 0.8}, lr=number, settings=SMALL, baselines={"pixels": 0.4}
        ).write()  # fmt: skip
        (config,) = root.glob("x-*/config.json")
        content = json.loads(config.read_text())
        content["config"]["images"] = {"mode": "rgb", "size": size}
        config.write_text(json.dumps(content))
    comparison = compare([tmp_path / "run84", tmp_path / "run224"])
    assert sorted(comparison.names) == ["pixels", "run224", "run84"]


def test_only_losers_of_a_race_leave_nothing_to_compare(tmp_path: Path) -> None:
    place = evaluated(tmp_path / "run")
    table = pq.read_table(place / TABLE)
    pq.write_table(table.slice(0, 30), place / TABLE)
    summary = json.loads((place / "summary.json").read_text())
    summary["results"][0]["mean"] = read_table(Location.parse(place))[0].mean.mean
    (place / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(FewShotError, match=r"nothing is left to compare:\n- .*dropped by the race"):
        compare([place], baseline="run")
