"""The live view: what it shows of fixed studies, and what it says where nobody watches."""

from __future__ import annotations

import io
import re
import time
from datetime import UTC, datetime

import optuna
import pytest
from optuna.trial import FrozenTrial
from rich.console import Console

from pipelines.commands import duration
from tests.unit.tuning.example_study import (
    FAILED,
    SOURCE,
    empty_study,
    example_config,
    example_study,
    two_goal_study,
    two_goals,
)
from tuning.config import StudyConfig
from tuning.live import HINT, LiveView, RunningTrial, finished_line, picture, summary_line
from tuning.standing import Standing, standing

NOW = 1_800_000_000.0
RUNNING = {
    38: RunningTrial(38, 38, 0.7123, NOW - 540),
    39: RunningTrial(39, 13, None, NOW - 45),
}
WIDTHS = (80, 120)


def shown(config: StudyConfig, now: Standing, width: int = 80) -> str:
    """Return the picture as text."""
    console = Console(file=io.StringIO(), width=width)
    console.print(picture(config, now, 754.0))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def best_of(study: optuna.Study) -> FrozenTrial:
    """Return the best complete trial that is the study's own."""
    own = [trial for trial in study.trials if trial.number != SOURCE and trial.values]
    return max(own, key=lambda trial: trial.value or 0)


def two_goal_config() -> StudyConfig:
    goals = [goal.model_dump() for goal in two_goals()]
    return example_config(goals=goals, pruner={"name": "none"})


@pytest.mark.parametrize("width", WIDTHS)
def test_the_picture_says_what_was_best_and_what_runs(width: int) -> None:
    config, study = example_config(), example_study()
    text = shown(config, standing(config, study, RUNNING, NOW), width)
    assert "Search example: running for 12 min 34 s" in text
    assert HINT in text
    best = best_of(study)
    assert f"validation accuracy {100 * (best.value or 0):.2f} %  trial {best.number}" in text
    rate = best.params[f"{best.user_attrs['recipe']}.optim.lr"]
    assert f"optim.lr={rate:.4g}" in text
    assert "trial 38 (protonet)" in text
    assert "71.23 %" in text
    assert "9 min 0 s" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_picture_counts_trials_stages_and_budget(width: int) -> None:
    config = example_config()
    now = standing(config, example_study(), RUNNING, NOW)
    text = " ".join(shown(config, now, width).split())
    assert (
        f"{now.counts['complete']} finished, {now.counts['pruned']} stopped early, "
        f"{now.counts['infeasible']} with impossible settings, 1 failed, 2 running, "
        "1 known from earlier studies"
    ) in text
    assert f"{now.ran} run, {now.reused} found done and not repeated" in text
    assert "38 of 60 trials" in text
    assert "of 3 device hours" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for config, study in [
        (example_config(), example_study()),
        (two_goal_config(), two_goal_study()),
        (example_config(), empty_study()),
    ]:
        lines = shown(config, standing(config, study, {}, NOW), width).splitlines()
        assert max(map(len, lines)) <= width


def test_a_search_without_any_trial_is_shown_too() -> None:
    config = example_config()
    text = shown(config, standing(config, empty_study(), {}, NOW))
    assert "no trial has finished yet" in text
    assert "0 of 60 trials" in text
    assert "known after the first trial" in text


def test_a_search_at_its_end_says_so() -> None:
    config = example_config(budget={"trials": 38})
    assert "the budget is used up" in shown(config, standing(config, example_study(), {}, NOW))


def test_with_several_goals_the_best_of_each_is_shown() -> None:
    text = shown(two_goal_config(), standing(two_goal_config(), two_goal_study(), {}, NOW))
    assert text.count("Best so far") == 2


def test_many_running_trials_are_counted_instead_of_listed() -> None:
    many = {n: RunningTrial(n, 10, 0.5, NOW - 9) for n in range(1, 31)}
    text = shown(example_config(), standing(example_config(), example_study(), many, NOW))
    assert "and 20 more" in text


def test_a_finished_trial_is_one_line_that_says_how_it_ended() -> None:
    config = example_config()
    now = standing(config, example_study(), {}, NOW)
    lines = {trial.number: finished_line(config, trial, now.best) for trial in now.ended}
    best = now.best[0]
    assert lines[best.number] == (
        f"trial {best.number} ({best.user_attrs['recipe']}): finished after "
        f"{duration(best.user_attrs['seconds'])}: validation accuracy "
        f"{100 * (best.value or 0):.2f} %, the best so far"
    )
    assert re.match(r"trial 17 \(\w+\): failed after .*: its process died", lines[FAILED])
    assert not any("\n" in line for line in lines.values())


def test_the_whole_is_one_line() -> None:
    config = example_config()
    now = standing(config, example_study(), RUNNING, NOW)
    line = summary_line(config, now)
    assert re.match(r"38 of 60 trials, 1.\d\d of 3 device hours \(\d+ finished, ", line)
    reached = f"validation accuracy {100 * (now.best[0].value or 0):.2f} %"
    assert f"best: {reached} (trial {now.best[0].number} " in line
    assert re.search(r"; about \d+ min left$", line)


def with_ended(number: int, moment: float) -> optuna.Study:
    """Return the example with a trial that ended at another moment."""
    study = empty_study()
    finished = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    for trial in example_study().trials:
        if trial.number == number:
            trial.user_attrs["finished"] = finished
        study.add_trial(trial)
    return study


def test_without_a_terminal_each_trial_that_ends_is_said_once() -> None:
    out = io.StringIO()
    with LiveView(example_config(), Console(file=out)) as view:
        view.update(example_study(5), {})
        view.update(example_study(), {})
        assert out.getvalue() == ""  # they ended before
    with LiveView(example_config(), Console(file=out)) as view:
        view.update(with_ended(5, time.time() + 1), {})
        view.update(with_ended(5, time.time() + 1), {})
    (line,) = out.getvalue().splitlines()
    assert line.startswith("trial 5 (")


def test_without_a_terminal_the_whole_is_said_every_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    study = example_study()
    with LiveView(example_config(), Console(file=out)) as view:
        view.update(study, {})
        later = time.time() + 61
        monkeypatch.setattr(time, "time", lambda: later)
        view.update(study, {})
        view.update(study, {})
    assert len(out.getvalue().splitlines()) == 1
    assert out.getvalue().startswith("38 of 60 trials")


def test_in_a_terminal_the_picture_is_redrawn_in_place() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=40)
    with LiveView(example_config(), console) as view:
        view.update(empty_study(), {})
        view.update(example_study(), RUNNING)
    assert "\x1b[1A\x1b[2K" in out.getvalue()  # a line up, wiped
    assert out.getvalue().count("Used up") >= 2
