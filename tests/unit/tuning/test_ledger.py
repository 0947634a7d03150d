"""Asking and telling a study: every trial once, whatever is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from fsl.errors import StageError
from tests.toy_study import write_study
from tuning.config import load_study
from tuning.ledger import Ledger
from tuning.outcome import Outcome, TrialNews, counts, own_trials
from tuning.space import build_space
from tuning.store import open_study


@contextmanager
def opened(folder: Path, **changes: Any) -> Iterator[Ledger]:
    """Yield the ledger of a study over the toy recipe, as a new process would have it."""
    config = load_study(write_study(folder, **changes))
    with open_study(config) as store:
        yield Ledger(config, build_space(config), store)


def done(value: float, **more: Any) -> TrialNews:
    """Return what a trial says at its end."""
    return TrialNews(Outcome.COMPLETE, percent=100, values=[value], **more)


def ask(ledger: Ledger) -> int:
    """Return the number of the next trial, which there must be."""
    job = ledger.next()
    assert job is not None
    return job.number


def asked(ledger: Ledger) -> dict[str, Any]:
    """Return the settings of the next trial."""
    number = ask(ledger)
    return dict(ledger.study.trials[number].params)


def test_trials_are_asked_until_the_budget_is_used_up(tmp_path: Path) -> None:
    with opened(tmp_path, budget={"trials": 3}) as ledger:
        for value in (0.1, 0.3, 0.2):
            ledger.finish(ask(ledger), done(value))
        assert ledger.next() is None
        assert ledger.over == "3 trials were run"
        assert ledger.study.best_value == 0.3


def test_a_killed_sweep_hands_its_running_trials_out_again_and_no_others(tmp_path: Path) -> None:
    with opened(tmp_path, budget={"trials": 3}) as ledger:
        first, second = ask(ledger), ask(ledger)
        ledger.finish(first, done(0.5))
        settings = ledger.study.trials[second].params
    with opened(tmp_path, budget={"trials": 3}) as ledger:
        job = ledger.next()
        assert job is not None
        assert job.number == second
        assert ledger.study.trials[second].params == settings
        assert ledger.study.trials[second].user_attrs["attempts"] == 2
        third = ask(ledger)
        assert third not in (first, second)
        assert ledger.next() is None
        ledger.finish(second, done(0.6))
        ledger.finish(third, done(0.4))
        assert counts(ledger.study) == {
            "complete": 3, "pruned": 0, "infeasible": 0, "failed": 0, "running": 0,
        }  # fmt: skip


def test_a_sweep_that_is_killed_proposes_what_it_would_have_proposed(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    proposed = {}
    with opened(tmp_path / "whole") as ledger:
        for _ in range(4):
            ledger.finish(ask(ledger), done(0.5))
        proposed["whole"] = [trial.params for trial in ledger.study.trials]
    for _ in range(4):
        with opened(tmp_path / "cut") as ledger:
            ledger.finish(ask(ledger), done(0.5))
            proposed["cut"] = [trial.params for trial in ledger.study.trials]
    assert proposed["whole"] == proposed["cut"]


def test_a_trial_that_was_killed_while_being_asked_is_asked_to_the_end(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.study.ask().suggest_float("method.temperature", 0.1, 100.0, log=True)
        drawn = ledger.study.trials[0].params  # killed before optim.lr
    with opened(tmp_path) as ledger:
        assert ask(ledger) == 0
        trial = ledger.study.trials[0]
        assert set(trial.params) == {"method.temperature", "optim.lr"}
        assert trial.params["method.temperature"] == drawn["method.temperature"]
        assert trial.user_attrs["attempts"] == 1
        assert ask(ledger) == 1


def test_a_point_to_try_first_is_not_lost_by_a_kill_while_asking(tmp_path: Path) -> None:
    points = [{"optim.lr": 0.03}]
    with opened(tmp_path, points=points) as ledger:
        ledger.study.ask()
    with opened(tmp_path, points=points) as ledger:
        assert asked(ledger)["optim.lr"] == 0.03
        assert asked(ledger)["optim.lr"] != 0.03


def test_what_several_points_leave_open_is_not_drawn_alike(tmp_path: Path) -> None:
    points = [{"optim.lr": 0.03}, {"optim.lr": 0.02}]
    with opened(tmp_path, points=points) as ledger:
        drawn = [asked(ledger)["method.temperature"] for _ in points]
        assert drawn[0] != drawn[1]


def test_no_trial_runs_for_ever_that_was_killed_while_it_was_closed(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        first = ask(ledger)
        ledger.study.enqueue_trial(ledger.study.trials[first].params)
        trial = ledger.study.ask()
        ledger.space.suggest(trial)
        trial.set_user_attr("outcome", "repeat")  # and killed before its state was told
    with opened(tmp_path, budget={"trials": 1}) as ledger:
        ledger.finish(ask(ledger), done(0.5))
        assert ledger.next() is None
        assert not [t for t in ledger.study.trials if t.state == TrialState.RUNNING]
        assert [t.number for t in own_trials(ledger.study)] == [first]


def test_the_same_settings_are_never_run_twice(tmp_path: Path) -> None:
    search = {"episodes.ways": {"choices": [3, 4]}, "episodes.queries": {"choices": [1, 2]}}
    with opened(tmp_path, search=search, budget={"trials": 20}) as ledger:
        while (job := ledger.next()) is not None:
            ledger.finish(job.number, done(0.5))
        own = own_trials(ledger.study)
        assert len(own) == 4
        assert len({tuple(trial.params.items()) for trial in own}) == 4
        assert "every combination" in ledger.over


def test_every_combination_is_tried_though_the_sampler_insists_on_the_best(tmp_path: Path) -> None:
    search = {
        "episodes.ways": {"choices": [3, 4, 5]},
        "episodes.queries": {"low": 1, "high": 4},
    }
    sampler = {"name": "tpe", "startup_trials": 3}
    with opened(tmp_path, search=search, sampler=sampler, budget={"trials": 20}) as ledger:
        while (job := ledger.next()) is not None:
            ledger.finish(job.number, done(0.5 if job.number else 0.9))
        own = own_trials(ledger.study)
        assert len({tuple(trial.params.items()) for trial in own}) == len(own) == 12
        assert "every combination" in ledger.over


def test_a_sweep_whose_last_trials_run_is_not_over(tmp_path: Path) -> None:
    with opened(tmp_path, budget={"trials": 1}) as ledger:
        number = ask(ledger)
        assert ledger.next() is None
        assert ledger.over
        assert ledger.running()
        ledger.finish(number, done(0.5))
        assert not ledger.running()


def test_the_same_fault_in_other_directories_ends_the_sweep(tmp_path: Path) -> None:
    with opened(tmp_path, budget={"trials": 9}) as ledger:
        for number in range(3):
            reason = f"stage second in studies/toy/stages/second-{number:012x}: disk is full"
            ledger.finish(ask(ledger), TrialNews(Outcome.FAILED, reason=reason))
        with pytest.raises(StageError, match="first 3 trials failed for the same reason"):
            ledger.refuse_hopeless()


def test_results_are_written_down_once_and_prune_what_is_behind(tmp_path: Path) -> None:
    pruner = {"name": "asha", "min_percent": 25, "factor": 2}
    with opened(tmp_path, pruner=pruner, budget={"trials": 20}) as ledger:
        verdicts = []
        for value in (0.9, 0.8, 0.1):
            number = ask(ledger)
            verdicts.append(ledger.record(number, TrialNews(percent=25, value=value, epochs=1)))
            ledger.record(number, TrialNews(percent=25, value=0.0))
            assert ledger.study.trials[number].intermediate_values == {25: value}
        assert verdicts[0] is False
        assert verdicts[-1] is True
        ledger.prune(2)
        assert ledger.study.trials[2].state == TrialState.PRUNED
        assert ledger.study.trials[2].user_attrs["reason"].startswith("stopped at 25 %")


def test_pruning_after_a_kill_knows_what_came_before_it(tmp_path: Path) -> None:
    pruner = {"name": "asha", "min_percent": 25, "factor": 2}
    with opened(tmp_path, pruner=pruner) as ledger:
        for value in (0.9, 0.8):
            ledger.record(ask(ledger), TrialNews(percent=25, value=value))
    with opened(tmp_path, pruner=pruner) as ledger:
        assert [ask(ledger), ask(ledger)] == [0, 1]
        assert ledger.record(ask(ledger), TrialNews(percent=25, value=0.1)) is True


def test_a_trial_that_is_at_its_end_already_is_not_stopped(tmp_path: Path) -> None:
    pruner = {"name": "asha", "min_percent": 25, "factor": 2}
    whole = {"25": 0.1, "50": 0.1, "75": 0.1, "100": 0.2}
    with opened(tmp_path, pruner=pruner) as ledger:
        for value in (0.9, 0.8):
            ledger.record(ask(ledger), TrialNews(percent=25, value=value))
        number = ask(ledger)  # its training was faster than the news of it
        assert ledger.record(number, TrialNews(percent=25, value=0.1, curve=whole)) is False
        ledger.finish(number, done(0.2, curve=whole))
        assert ledger.study.trials[number].state == TrialState.COMPLETE


def test_what_an_earlier_attempt_could_not_tell_any_more_is_written_down(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.record(ask(ledger), TrialNews(percent=25, value=0.4, curve={"25": 0.4}))
    with opened(tmp_path) as ledger:
        number = ask(ledger)
        ledger.finish(number, done(0.6, curve={"25": 0.4, "50": 0.6, "100": 0.5}))
        assert ledger.study.trials[number].intermediate_values == {25: 0.4, 50: 0.6, 100: 0.5}


def test_costs_of_all_attempts_are_added_up(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        number = ask(ledger)
        news = TrialNews(percent=25, value=0.4, device_seconds=10, seconds=5, ran=["shards"])
        ledger.record(number, news)
    with opened(tmp_path) as ledger:
        assert ask(ledger) == number
        ledger.finish(number, done(0.5, device_seconds=3, seconds=2, reused=["shards", "first"]))
        attrs = ledger.study.trials[number].user_attrs
    assert attrs["device_seconds"] == 13
    assert attrs["seconds"] == 7
    assert attrs["ran"] == ["shards"]
    assert attrs["reused"] == ["first"]


@pytest.mark.parametrize(
    ("budget", "words"),
    [({"trials": 9, "epochs": 4}, "4 epochs"), ({"trials": 9, "device_hours": 0.5}, "0.5 device")],
)
def test_other_budgets_end_a_sweep_as_well(
    tmp_path: Path, budget: dict[str, float], words: str
) -> None:
    with opened(tmp_path, budget=budget) as ledger:
        for _ in range(2):
            ledger.finish(ask(ledger), done(0.5, epochs=2, device_seconds=900))
        assert ledger.next() is None
        assert words in ledger.over


def test_settings_that_contradict_each_other_are_told_with_their_reason(tmp_path: Path) -> None:
    epochs = {"optim.warmup_epochs": {"choices": [0, 3]}, "optim.epochs": {"choices": [2, 4]}}
    search = {**epochs, "optim.lr": "own"}
    with opened(tmp_path, search=search, budget={"trials": 12}) as ledger:
        while (job := ledger.next()) is not None:
            ledger.finish(job.number, done(0.5))
        told = [trial for trial in own_trials(ledger.study) if trial.state == TrialState.PRUNED]
        assert told
        for trial in told:
            assert trial.params["optim.warmup_epochs"] == 3
            assert trial.user_attrs["infeasible"] == [1.0]
            assert "warmup_epochs 3 exceeds epochs 2" in trial.user_attrs["reason"]


def test_a_value_that_is_not_finite_is_no_value(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        number = ask(ledger)
        ledger.finish(number, done(float("nan")))
        trial = ledger.study.trials[number]
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs["outcome"] == "infeasible"


def test_a_process_that_keeps_dying_fails_its_trial_and_memory_tells_why(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        first, second = ask(ledger), ask(ledger)
        ledger.lost(first, "The actor died unexpectedly")
        ledger.lost(second, "ray.exceptions.OutOfMemoryError: killed")
        assert ledger.study.trials[first].state == TrialState.FAIL
        assert ledger.study.trials[second].user_attrs["outcome"] == "infeasible"


@pytest.mark.parametrize(("outcome", "count"), [(Outcome.FAILED, 3), (Outcome.INFEASIBLE, 8)])
def test_the_same_failure_in_all_first_trials_ends_the_sweep(
    tmp_path: Path, outcome: Outcome, count: int
) -> None:
    with opened(tmp_path, budget={"trials": 9}) as ledger:
        for _ in range(count):
            ledger.refuse_hopeless()
            ledger.finish(ask(ledger), TrialNews(outcome, reason="disk is full"))
        with pytest.raises(StageError, match=f"first {count} trials failed .* disk is full"):
            ledger.refuse_hopeless()
