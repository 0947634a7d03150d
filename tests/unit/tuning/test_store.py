"""A study's directory: nothing is lost or repeated, whatever is killed and whoever reads."""

from __future__ import annotations

import json
import re
import time
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from data_shards.location import Location
from fsl.errors import ConfigError, FewShotError, StageError, StorageError
from tests.toy_study import RECIPE, write_study
from tuning.config import StudyConfig, load_study
from tuning.space import build_space
from tuning.store import StudyStore, copy_away, open_study, read_study
from tuning.study_record import SETTINGS

POINT = {"method.temperature": 2.0, "optim.lr": 0.01}


def settings(folder: Path, *overrides: str, **changes: Any) -> StudyConfig:
    return load_study(write_study(folder, **changes), overrides)


def run_trials(config: StudyConfig, count: int) -> None:
    space = build_space(config)
    with open_study(config, space) as store:
        for _ in range(count):
            trial = store.study.ask()
            params = space.suggest(trial)
            store.study.tell(trial, params["optim.lr"])


def test_a_study_goes_on_where_it_was(tmp_path: Path) -> None:
    config = settings(tmp_path)
    run_trials(config, 2)
    run_trials(config, 1)
    with open_study(config) as store:
        trials = store.study.trials
        assert [trial.number for trial in trials] == [0, 1, 2]
        assert store.study.metric_names == ["val_accuracy"]
        assert store.study.direction.name == "MAXIMIZE"
        assert isinstance(store.study.pruner, optuna.pruners.NopPruner)


def test_the_directory_says_what_the_study_is(tmp_path: Path) -> None:
    config = settings(tmp_path, points=[POINT])
    run_trials(config, 1)
    (tmp_path / "recipe.yaml").unlink()
    saved = load_study(tmp_path / "study" / SETTINGS)
    assert saved.recipes["recipe"].recipe == RECIPE
    assert build_space(saved).points() == [POINT]
    read, study = read_study(config.root)
    assert read.root == config.root
    assert len(study.trials) == 1


@pytest.mark.parametrize("torn", [b'{"op_code":5,"tri', b'{"op_code":5}garbage\n', b"\0\0\0\0"])
def test_a_line_that_was_not_written_to_its_end_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    config = settings(tmp_path)
    run_trials(config, 2)
    journal = tmp_path / "study" / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    assert len(read_study(config.root)[1].trials) == 2
    assert journal.read_bytes() == whole + torn  # reading never writes
    run_trials(config, 1)
    lines = journal.read_bytes()
    assert lines.startswith(whole)
    assert all(json.loads(line) for line in lines.splitlines())
    assert len(read_study(config.root)[1].trials) == 3


def test_every_cut_of_a_journal_can_be_opened(tmp_path: Path) -> None:
    config = settings(tmp_path)
    run_trials(config, 1)
    journal = tmp_path / "study" / "study.journal"
    whole = journal.read_bytes()
    for length in range(0, len(whole), 97):
        journal.write_bytes(whole[:length])
        with open_study(config) as store:
            assert len(store.study.trials) <= 1
        read_study(config.root)


def test_damage_before_the_end_is_refused_not_cut(tmp_path: Path) -> None:
    config = settings(tmp_path)
    run_trials(config, 2)
    journal = tmp_path / "study" / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"what\n", *lines[3:]]))
    with pytest.raises(StorageError, match="line 4 is damaged, and others follow it"), \
            open_study(config):  # fmt: skip
        pass
    assert b"what" in journal.read_bytes()


def test_the_lock_of_a_killed_process_is_removed_at_once(tmp_path: Path) -> None:
    config = settings(tmp_path)
    run_trials(config, 1)
    (tmp_path / "study" / "study.journal.lock").symlink_to("gone")
    (tmp_path / "study" / "study.journal.lock-1.rename").symlink_to("gone")
    begun = time.monotonic()
    run_trials(config, 1)
    assert time.monotonic() - begun < 10  # Optuna by itself waits for 30 s
    assert not list((tmp_path / "study").glob("study.journal.*"))


def test_two_sweeps_of_one_study_exclude_each_other(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with open_study(config), pytest.raises(StageError, match="another run is using"):  # noqa: SIM117
        with open_study(config):
            pass


def test_points_are_asked_first_and_once(tmp_path: Path) -> None:
    config = settings(tmp_path, points=[POINT, {"optim.lr": 0.02}])
    with open_study(config):
        pass
    run_trials(config, 3)
    run_trials(config, 1)
    trials = read_study(config.root)[1].trials
    assert trials[0].params == POINT
    assert trials[1].params["optim.lr"] == 0.02
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert len(trials) == 4


MAY_CHANGE = [
    "budget.trials=9", "finalists.count=1", "name=other", "trials.retries=1",
    "loggers.mlflow={}", "stages.second.data.loader_workers=1", "stages.evaluate.tasks=60",
]  # fmt: skip


def test_what_leaves_trials_comparable_may_change(tmp_path: Path) -> None:
    run_trials(settings(tmp_path), 1)
    changed = settings(tmp_path, *MAY_CHANGE)
    run_trials(changed, 1)
    config, study = read_study(changed.root)
    assert config.budget.trials == 9
    assert len(study.trials) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed=3", "seed: 0, and now it is 3"),
        ("sampler={name: tpe}", "sampler"),
        ("pruner={name: asha}", "pruner"),
        ("goals=[{metric: step_seconds}]", "goals: "),
        ("search.optim.lr.high=0.5", "search.optim.lr.high: 0.1, and now it is 0.5"),
        ("search.method.metric=own", "search.method.metric: None"),
        ("stages.first.optim.epochs=2", "stages.first.optim.epochs: 1, and now it is 2"),
        ("validation.tasks=30", "stages.second.validation.tasks: 20, and now it is 30"),
        ("stage=first", "stage: 'second', and now it is 'first'"),
        ("points=[{optim.lr: 0.01}]", "points: []"),
    ],
)
def test_other_settings_need_another_study(tmp_path: Path, change: str, words: str) -> None:
    run_trials(settings(tmp_path), 1)
    changed = settings(tmp_path, change)
    with pytest.raises(ConfigError) as caught, open_study(changed):
        pass
    assert f"the study that is here has {words}" in str(caught.value)
    assert "begin another study with study_dir=" in str(caught.value)


def test_a_journal_without_settings_is_refused(tmp_path: Path) -> None:
    config = settings(tmp_path)
    run_trials(config, 1)
    (tmp_path / "study" / SETTINGS).unlink()
    with pytest.raises(ConfigError, match=r"holds a study\.journal but no study\.yaml"), \
            open_study(config):  # fmt: skip
        pass
    with pytest.raises(ConfigError, match="no study is here"):
        read_study(config.root)


def test_a_mistake_in_the_study_makes_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FewShotError), open_study(settings(tmp_path, search={"optim.rl": "own"})):
        pass
    assert not (tmp_path / "study").exists()


def test_readers_get_a_copy(tmp_path: Path) -> None:
    config = settings(tmp_path)
    with open_study(config) as store:
        assert read_study(config.root)[1].trials == []
        store.study.ask()
        running = read_study(config.root)[1]
        assert [trial.state for trial in running.trials] == [TrialState.RUNNING]
        before = store.journal.read_bytes()
        running.set_user_attr("mine", 1)
        running.ask()
        assert store.journal.read_bytes() == before


def fill(config: StudyConfig, begun: Event) -> None:
    """Ask and tell until killed."""
    space = build_space(config)
    with open_study(config, space) as store:
        begun.set()
        while True:
            trial = store.study.ask()
            space.suggest(trial)
            store.study.tell(trial, 0.5)


def test_a_study_survives_being_killed_at_any_moment(tmp_path: Path) -> None:
    config = settings(tmp_path)
    fork = get_context("fork")  # the imports take longer than the test
    finished: list[int] = []
    for wait in (0.05, 0.31, 0.17):
        begun = fork.Event()
        child = fork.Process(target=fill, args=(config, begun))
        child.start()
        assert begun.wait(30)
        time.sleep(wait)
        child.kill()
        child.join()
        with open_study(config) as store:
            trials = store.study.trials
        done = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
        assert done[: len(finished)] == finished
        assert [trial.number for trial in trials] == list(range(len(trials)))
        finished = done
    assert finished


def test_a_study_on_an_object_store_goes_on_from_what_was_copied(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuning.store.REST", 1e6)
    bucket, _, query = s3_root.partition("?")
    config = settings(tmp_path, study_dir=f"{bucket}/study?{query}")
    space = build_space(config)
    with open_study(config, space) as store:
        trial = store.study.ask()
        space.suggest(trial)
        store.sync()
        _, copy = read_study(Location.parse(str(config.root)))
        assert [t.params for t in copy.trials] == [trial.params]
        store.study.tell(trial, 0.25)
        store.sync()  # too soon after the last copy
        assert read_study(config.root)[1].trials[0].state == TrialState.RUNNING
        store.sync(now=True)
        assert read_study(config.root)[1].trials[0].value == 0.25
        store.study.ask()
    with open_study(config, space) as store:
        assert len(store.study.trials) == 2
        assert store.study.best_value == 0.25
        assert not store.journal.is_relative_to(Path.cwd())
    assert not store.journal.exists()


def test_a_bucket_that_is_away_ends_no_sweep_and_loses_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(place: Location, source: Path) -> None:
        raise StorageError(f"{place}: cannot be written")

    monkeypatch.setattr(Location, "upload", away)
    journal = tmp_path / "study.journal"
    journal.write_text("what nobody else has")
    root = Location.parse("s3://bucket/study?region=eu-west-1")
    store = StudyStore(root, optuna.create_study(), journal)
    store.sync()
    with pytest.raises(StorageError, match="the study's journal is kept in") as caught:
        copy_away(store)
    kept = re.search(
        r"kept in (\S+): copy it to s3://bucket/study/study.journal", str(caught.value)
    )
    assert kept is not None
    assert Path(kept[1]).read_text() == "what nobody else has"
    Path(kept[1]).unlink()
