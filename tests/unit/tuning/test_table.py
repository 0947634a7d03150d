"""The table of trials, and the leaderboard in the terminal."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from data_shards.location import Location
from tests.unit.tuning.example_study import (
    BEGUN,
    FAILED,
    REPEATED,
    RUNNING,
    SOURCE,
    empty_study,
    example_config,
    example_study,
    two_goal_study,
    two_goals,
)
from tuning.table import leaderboard, trial_table, write_table


def by_number(study: optuna.Study) -> dict[int, dict[str, object]]:
    return {row["number"]: row for row in trial_table(study).to_pylist()}


def test_there_is_one_row_for_each_trial_that_began() -> None:
    study = example_study()
    numbers = trial_table(study).column("number").to_pylist()
    assert numbers == [trial.number for trial in study.trials if trial.number != REPEATED]


def test_a_complete_trial_has_its_value_settings_curve_and_costs() -> None:
    study = example_study()
    best = max((t for t in study.trials if t.values), key=lambda t: t.values[0])
    row = by_number(study)[best.number]
    assert (row["state"], row["outcome"], row["value"]) == ("COMPLETE", "complete", best.value)
    for name, value in best.params.items():
        assert row[f"params.{name}"] == value
    assert dict(zip(row["percents"], row["accuracies"], strict=True)) == best.intermediate_values  # type: ignore[call-overload]
    assert row["seconds"] == best.user_attrs["seconds"]
    assert row["reused"] == best.user_attrs["reused"]
    assert json.loads(str(row["stages"])) == best.user_attrs["stages"]
    assert row["metrics.step_seconds"] == best.user_attrs["metrics"]["step_seconds"]
    assert row["started"] == BEGUN + timedelta(seconds=150 * best.number)


def test_a_trial_that_was_stopped_has_a_curve_and_no_value() -> None:
    study = example_study()
    stopped = [t for t in study.trials if t.state.name == "PRUNED" and t.intermediate_values]
    assert stopped
    for trial in stopped:
        row = by_number(study)[trial.number]
        assert row["value"] is None
        assert row["accuracies"]


def test_settings_of_the_other_recipe_are_null() -> None:
    for row in by_number(example_study()).values():
        empty = {name for name, value in row.items() if value is None and "params." in name}
        other = {"protonet": "smkd", "smkd": "protonet"}[str(row["recipe"])]
        assert empty == {name for name in row if name.startswith(f"params.{other}.")}


def test_columns_have_the_types_of_the_settings() -> None:
    schema = trial_table(example_study()).schema
    kinds = {
        "protonet.method.temperature": "double",
        "protonet.episodes.ways": "int64",
        "smkd.data.batch_size": "int64",
        "smkd.method.crops.quarter_turns": "bool",
        "smkd.method.crops.global_scale": "string",
    }
    assert {name: str(schema.field(f"params.{name}").type) for name in kinds} == kinds


def test_choices_of_several_types_are_text() -> None:
    study = optuna.create_study()
    domain = CategoricalDistribution([None, 3, 0.5, "own"])
    study.add_trials(
        create_trial(value=1.0, params={"layers": choice}, distributions={"layers": domain})
        for choice in domain.choices
    )
    texts = trial_table(study).column("params.layers").to_pylist()
    assert texts == [None, "3", "0.5", "own"]


def test_other_ends_are_told_apart() -> None:
    rows = by_number(example_study())
    assert (rows[FAILED]["state"], rows[FAILED]["outcome"]) == ("FAIL", "failed")
    assert (rows[RUNNING[0]]["outcome"], rows[RUNNING[0]]["finished"]) == ("running", None)
    impossible = [row for row in rows.values() if row["outcome"] == "infeasible"]
    assert {row["state"] for row in impossible} == {"PRUNED"}
    assert all(row["reason"] and row["value"] is None for row in impossible)
    assert rows[SOURCE]["source"] == "studies/earlier"


def test_several_goals_are_columns_of_their_own() -> None:
    study = two_goal_study()
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["val_accuracy", "step_seconds"])
    row = next(row for row in by_number(study).values() if row["outcome"] == "complete")
    assert row["val_accuracy"] == row["metrics.val_accuracy"]
    assert row["step_seconds"] == row["metrics.step_seconds"]


def test_a_study_without_trials_is_a_table_without_rows() -> None:
    table = trial_table(empty_study())
    assert (table.num_rows, table.column_names[:2]) == (0, ["number", "state"])


def test_the_file_holds_the_table(tmp_path: Path) -> None:
    study = example_study()
    place = write_table(Location.parse(tmp_path), study)
    assert pq.read_table(place.local).equals(trial_table(study))


def test_the_leaderboard_shows_the_ten_best_in_percent() -> None:
    lines = leaderboard(example_config(), example_study(), width=100).splitlines()
    assert lines[0] == "10 best of 19 finished trials (38 begun)"
    assert lines[1].split()[:5] == ["trial", "recipe", "accuracy", "in", "%"]
    values = [float(line.split()[2]) for line in lines[2:12]]
    assert values == sorted(values, reverse=True)
    assert all(50 < value < 100 for value in values)
    assert max(map(len, lines)) <= 100


def test_each_recipe_has_a_line_in_the_leaderboard() -> None:
    study = optuna.create_study(direction="maximize")
    for trial in example_study().trials:
        if trial.values and trial.params["recipe"] == "protonet":
            trial.values = [0.1 * trial.values[0]]
        study.add_trial(trial)
    lines = leaderboard(example_config(), study).splitlines()
    assert [line.split()[1] for line in lines[2:]].count("protonet") == 1


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_lines_have_the_width_of_the_terminal_and_whole_settings(width: int) -> None:
    lines = leaderboard(example_config(), example_study(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert ("settings" in lines[1]) is (width >= 80)
    assert ("quarter_turns=true" in "\n".join(lines)) is (width == 200)


def test_with_several_goals_the_leaderboard_is_the_front() -> None:
    config = example_config(goals=two_goals(), pruner={"name": "none"})
    study = two_goal_study()
    lines = leaderboard(config, study).splitlines()
    front = {trial.number for trial in study.best_trials if trial.number != SOURCE}
    assert lines[0] == f"{len(front)} on the Pareto front of 19 finished trials (22 begun)"
    assert {int(line.split()[0]) for line in lines[2:]} == front
    assert "ms per step" in lines[1]


def test_nothing_finished_is_said_in_words() -> None:
    assert leaderboard(example_config(), empty_study()) == "0 trials, none of them finished"
