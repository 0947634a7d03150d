"""What becomes of a trial whose process died."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_shards.location import Location
from tests.toy_study import write_study
from tuning.config import load_study
from tuning.ledger import Ledger
from tuning.outcome import Outcome, TrialNews
from tuning.searcher import NEWS, SPARE, StudyScheduler, StudySearcher
from tuning.space import build_space
from tuning.store import open_study
from tuning.tuner import drive


def died(trial_id: str, retries_left: bool) -> Any:
    """A trial of Tune, as its scheduler sees it after a death."""
    return SimpleNamespace(
        trial_id=trial_id, should_recover=lambda: retries_left, get_error=lambda: "killed"
    )


@pytest.mark.parametrize("retries_left", [True, False])
def test_a_death_that_tune_counts_twice_loses_no_trial(tmp_path: Path, retries_left: bool) -> None:
    config = load_study(write_study(tmp_path, budget={"trials": 2}))
    with open_study(config) as store:
        searcher = StudySearcher(Ledger(config, build_space(config), store))
        first = searcher.suggest("a")
        StudyScheduler(searcher).on_trial_error(None, died("a", retries_left))
        searcher.on_trial_complete("a", error=True)
        again = searcher.suggest("b")
        assert (again["number"] == first["number"]) is retries_left
        assert (again["params"] == first["params"]) is retries_left
        state = store.study.trials[first["number"]].state.name
        assert state == ("RUNNING" if retries_left else "FAIL")


def test_a_trial_that_tune_closes_when_it_asks_no_more_is_run_in_another_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune stands still for a while after the last trial was handed out, then a node dies."""
    config = load_study(write_study(tmp_path, budget={"trials": 2}))
    rounds: list[list[int]] = []
    good = {NEWS: TrialNews(Outcome.COMPLETE, percent=100, values=[0.5]).to_json()}

    def fit(searcher: StudySearcher) -> None:
        """Run all trials that there are; the last of the first round dies."""
        handed: list[int] = []
        while (suggested := searcher.suggest(f"{len(rounds)}/{len(handed)}")) != "FINISHED":
            handed.append(suggested["number"])
        for place, _ in enumerate(handed):
            name = f"{len(rounds)}/{place}"
            dies = not rounds and place == 1
            if dies:
                StudyScheduler(searcher).on_trial_error(None, died(name, True))
            searcher.on_trial_complete(name, None if dies else good, error=dies)
        rounds.append(handed)

    def tuner(searcher: StudySearcher, *_: Any) -> Any:
        return SimpleNamespace(fit=lambda: fit(searcher))

    monkeypatch.setattr("tuning.tuner._tuner", tuner)
    with open_study(config) as store:
        searcher = StudySearcher(Ledger(config, build_space(config), store))
        drive(searcher, None, Location.parse(tmp_path / "scratch"), at_once=2)
        assert rounds == [[0, 1], [1]]
        assert [trial.state.name for trial in store.study.trials] == ["COMPLETE", "COMPLETE"]
        assert store.study.trials[1].user_attrs["attempts"] == 3  # told twice, handed out again


def test_a_trial_that_dies_for_ever_is_lost_in_the_end(tmp_path: Path) -> None:
    config = load_study(write_study(tmp_path, budget={"trials": 2}))
    with open_study(config) as store:
        searcher = StudySearcher(Ledger(config, build_space(config), store))
        numbers = []
        for attempt in range(SPARE + 2):
            numbers.append(searcher.suggest(str(attempt))["number"])
            StudyScheduler(searcher).on_trial_error(None, died(str(attempt), True))
            searcher.on_trial_complete(str(attempt), error=True)
        assert numbers == [0] * (SPARE + 1) + [1]
        assert store.study.trials[0].state.name == "FAIL"
