"""Warm start: what earlier studies found is known, once, and only where it says something."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from fsl.errors import ConfigError
from tests.toy_study import RECIPE, write_study
from tuning.config import StudyConfig, load_study
from tuning.outcome import own_trials
from tuning.space import Space, build_space
from tuning.store import StudyStore, open_study, read_study
from tuning.warm_start import warm_start


def settings(folder: Path, name: str, **changes: Any) -> StudyConfig:
    changes.setdefault("sampler", {"name": "tpe"})
    path = write_study(folder, study_dir=str(folder / name), **changes)
    return load_study(path)


def fill(space: Space, store: StudyStore) -> None:
    """Four trials: complete, pruned at half, infeasible, failed; and one that still runs."""
    fates = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL]
    for number, state in enumerate(fates):
        trial = store.study.ask()
        space.suggest(trial)
        trial.set_user_attr("infeasible", [float(number == 2)])
        trial.set_user_attr("reason", "too large" if number == 2 else "")
        trial.set_user_attr("stages", {"second": "second-abc"})
        trial.report(0.4, 50)
        store.study.tell(trial, 0.7 if state == TrialState.COMPLETE else None, state=state)
    space.suggest(store.study.ask())


def earlier(folder: Path, **changes: Any) -> StudyConfig:
    config = settings(folder, "earlier", **changes)
    space = build_space(config)
    with open_study(config, space) as store:
        fill(space, store)
    return config


def test_finished_trials_are_known_from_the_start(tmp_path: Path) -> None:
    before = earlier(tmp_path)
    old = read_study(before.root)[1].trials
    config = settings(tmp_path, "new", warm_start=[str(before.root)])
    space = build_space(config)
    with open_study(config, space) as store:
        assert warm_start(config, space, store) == 3
        trials = store.study.trials
        assert own_trials(store.study) == []
    assert [trial.state for trial in trials] == [trial.state for trial in old[:3]]
    assert [trial.params for trial in trials] == [trial.params for trial in old[:3]]
    assert trials[0].value == 0.7
    assert trials[1].intermediate_values == {50: 0.4}
    assert trials[2].constraints == {"infeasible": 1.0}
    assert trials[2].user_attrs["reason"] == "too large"
    assert trials[0].user_attrs["source"] == f"{before.root}#0"
    assert "stages" not in trials[0].user_attrs


def test_trials_are_copied_once_even_when_the_earlier_study_is_gone(tmp_path: Path) -> None:
    before = earlier(tmp_path)
    config = settings(tmp_path, "new", warm_start=[str(before.root)])
    space = build_space(config)
    for _ in range(2):
        with open_study(config, space) as store:
            assert warm_start(config, space, store) == 3
            assert len(store.study.trials) == 3
        shutil.rmtree(tmp_path / "earlier", ignore_errors=True)


def test_a_copy_that_was_interrupted_is_completed(tmp_path: Path) -> None:
    before = earlier(tmp_path)
    config = settings(tmp_path, "new", warm_start=[str(before.root)])
    space = build_space(config)
    with open_study(config, space) as store:
        warm_start(config, space, store)
        store.study.set_user_attr("warm_started", [])  # killed just before it was noted
        assert warm_start(config, space, store) == 3
        assert len(store.study.trials) == 3


def test_a_narrower_range_takes_what_lies_in_it(tmp_path: Path) -> None:
    before = earlier(tmp_path)
    (first, *_) = read_study(before.root)[1].trials
    rate = first.params["optim.lr"]
    search = {
        "method.temperature": {"low": 0.1, "high": 100.0, "log": True},
        "optim.lr": {"low": rate * 0.999, "high": rate * 1.001},
    }
    config = settings(tmp_path, "new", warm_start=[str(before.root)], search=search)
    space = build_space(config)
    with open_study(config, space) as store:
        assert warm_start(config, space, store) == 1
        assert store.study.trials[0].params == first.params


def test_recipes_are_matched_by_their_label(tmp_path: Path) -> None:
    def branches(*labels: str) -> dict[str, Any]:
        search = {"optim.lr": {"low": 1e-4, "high": 1e-1}, "method.metric": "own"}
        one = {"recipe": RECIPE, "search": search}
        short = dict.fromkeys(("recipe", "search"), "-")
        return {**short, "recipes": dict.fromkeys(labels, one), "sampler": {"name": "tpe"}}

    before = earlier(tmp_path, **branches("a", "b"))
    old = [trial.params["recipe"] for trial in read_study(before.root)[1].trials[:3]]
    assert {"a", "b"} == set(old)
    config = settings(tmp_path, "new", warm_start=[str(before.root)], **branches("b", "c"))
    space = build_space(config)
    with open_study(config, space) as store:
        assert warm_start(config, space, store) == old.count("b")
        assert {trial.params["recipe"] for trial in store.study.trials} == {"b"}
        assert store.study.trials[0].user_attrs["recipe"] == "b"


def test_the_new_study_can_be_warm_started_from_in_turn(tmp_path: Path) -> None:
    before = earlier(tmp_path)
    middle = settings(tmp_path, "middle", warm_start=[str(before.root)])
    space = build_space(middle)
    with open_study(middle, space) as store:
        warm_start(middle, space, store)
    last = settings(tmp_path, "last", warm_start=[str(before.root), str(middle.root)])
    with open_study(last) as store:
        assert warm_start(last, build_space(last), store) == 3  # the same three


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({}, {"search": {"method.metric": "own"}}, "none of its 3 finished trials fits: they have"),
        ({"goals": [{"metric": "step_seconds"}]}, {}, "its goals are step_seconds, not val_acc"),
        ({"validation": {"ways": 4}}, {}, "judged with validation.ways: 4, this study with 3"),
    ],
)
def test_a_study_that_says_nothing_is_refused(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any], message: str
) -> None:
    before = earlier(tmp_path, **old)
    config = settings(tmp_path, "new", warm_start=[str(before.root)], **new)
    space = build_space(config)
    with open_study(config, space) as store, pytest.raises(ConfigError) as caught:
        warm_start(config, space, store)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"warm_start: {before.root}")


def test_a_place_without_a_study_is_refused(tmp_path: Path) -> None:
    empty = settings(tmp_path, "empty")
    with open_study(empty):
        pass
    for place, message in (
        (str(tmp_path / "nowhere"), "no study is here"),
        (str(empty.root), "has no finished trial"),
        (str(tmp_path / "new"), "is this study itself"),
    ):
        config = settings(tmp_path, "new", warm_start=[place])
        with pytest.raises(ConfigError, match=message), open_study(config) as store:
            warm_start(config, build_space(config), store)
        (tmp_path / "new" / "study.yaml").unlink()
        (tmp_path / "new" / "study.journal").unlink()
