"""Checkpoints of a sweep: what goes first, and what never goes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from data_shards.location import Location
from fsl.errors import StorageError
from tuning import disk
from tuning.disk import checkpoint_sizes, trim

SIZE = 1000
COMPLETE, PRUNED, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING


class Sweep:
    """A study and the directories of its trials, each with checkpoints of 1000 bytes."""

    def __init__(self, folder: Path) -> None:
        self.root, self.study = folder, optuna.create_study(direction="maximize")
        self.write("pretrain-aaaaaaaaaaaa")

    def write(self, name: str) -> None:
        place = self.root / "stages" / name
        for which in ("step-00000004", "step-00000008"):
            (place / "checkpoints" / which).mkdir(parents=True, exist_ok=True)
            (place / "checkpoints" / which / "model.safetensors").write_bytes(b"x" * (SIZE // 2))
        for other in ("result.json", "metrics.jsonl"):
            (place / other).write_text("{}")

    def add(
        self,
        state: TrialState,
        value: float | None = None,
        curve: dict[int, float] | None = None,
        **more: Any,
    ) -> str:
        """Add a trial and return the directory of its judged stage."""
        number = len(self.study.trials)
        name = more.pop("name", f"distill-{number:012x}")
        self.write(name)
        stages = {"pretrain": "pretrain-aaaaaaaaaaaa", "distill": name}
        attributes = {"recipe": "smkd", "stages": stages, "outcome": "complete", **more}
        if state == RUNNING:
            del attributes["outcome"]
        trial = create_trial(
            state=state,
            value=value,
            intermediate_values=curve or {},
            user_attrs=attributes,
        )
        self.study.add_trial(trial)
        return str(name)

    def trim(self, checkpoints: int, protect: int = 1) -> list[str]:
        """Leave room for so many."""
        return trim(Location.parse(self.root), self.study, checkpoints * SIZE, protect)

    @property
    def left(self) -> set[str]:
        return set(checkpoint_sizes(Location.parse(self.root) / "stages"))


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_nothing_is_deleted_while_all_fits(sweep: Sweep) -> None:
    sweep.add(COMPLETE, 0.5)
    sweep.add(COMPLETE, 0.6)
    assert sweep.trim(3) == []
    assert checkpoint_sizes(Location.parse(sweep.root) / "stages")["pretrain-aaaaaaaaaaaa"] == SIZE


def test_stopped_trials_go_before_complete_ones_and_the_worst_first(sweep: Sweep) -> None:
    good = sweep.add(COMPLETE, 0.9)
    bad = sweep.add(COMPLETE, 0.5)
    stopped = sweep.add(PRUNED, curve={25: 0.4, 50: 0.85})
    hopeless = sweep.add(PRUNED, curve={25: 0.8, 50: 0.3})
    impossible = sweep.add(PRUNED, outcome="infeasible")
    fair = sweep.add(COMPLETE, 0.7)
    assert sweep.trim(3) == [impossible, hopeless, stopped, bad]
    assert sweep.left == {"pretrain-aaaaaaaaaaaa", good, fair}


def test_only_checkpoints_are_deleted(sweep: Sweep) -> None:
    sweep.add(COMPLETE, 0.9)
    name = sweep.add(COMPLETE, 0.5)
    assert sweep.trim(2) == [name]
    kept = {path.name for path in (sweep.root / "stages" / name).iterdir()}
    assert kept == {"result.json", "metrics.jsonl"}


def test_the_best_the_running_and_what_others_start_from_are_kept(
    sweep: Sweep, caplog: pytest.LogCaptureFixture
) -> None:
    best = [sweep.add(COMPLETE, 0.9), sweep.add(COMPLETE, 0.8)]
    running = sweep.add(RUNNING, curve={25: 0.1})
    with caplog.at_level(logging.WARNING):
        assert sweep.trim(0, protect=2) == []
        assert sweep.trim(0, protect=2) == []
    assert sweep.left == {"pretrain-aaaaaaaaaaaa", running, *best}
    assert caplog.text.count("they are kept") == 1


def test_an_earlier_stage_of_one_bad_trial_alone_goes_too(sweep: Sweep) -> None:
    names = []
    for number, value in enumerate((0.9, 0.5, 0.4)):
        first = f"pretrain-{number:012x}"
        sweep.write(first)
        own = f"distill-{number:012x}"
        sweep.add(COMPLETE, value, name=own, stages={"pretrain": first, "distill": own})
        names.append((first, own))
    assert set(sweep.trim(3)) == {*names[1], *names[2]}
    assert sweep.left == {"pretrain-aaaaaaaaaaaa", *names[0]}
    stages = sweep.root / "stages"
    assert not (stages / names[1][0] / "result.json").exists()  # a later trial trains it again
    assert (stages / names[1][1] / "result.json").exists()


def test_an_earlier_stage_waits_for_trials_that_may_start_from_it(sweep: Sweep) -> None:
    best, bad = sweep.add(COMPLETE, 0.9), "distill-bbbbbbbbbbbb"
    sweep.write("pretrain-bbbbbbbbbbbb")
    sweep.add(COMPLETE, 0.1, name=bad, stages={"pretrain": "pretrain-bbbbbbbbbbbb", "distill": bad})
    sweep.add(RUNNING, stages={})
    assert sweep.trim(0) == [bad]
    assert sweep.left >= {best, "pretrain-bbbbbbbbbbbb"}


def test_the_very_best_is_kept_without_finalists_too(sweep: Sweep) -> None:
    best, other = sweep.add(COMPLETE, 0.9), sweep.add(COMPLETE, 0.8)
    assert sweep.trim(0, protect=0) == [other]
    assert best in sweep.left


def test_a_stage_that_two_trials_share_is_as_good_as_the_better_one(sweep: Sweep) -> None:
    shared = sweep.add(COMPLETE, 0.9)
    bad = sweep.add(COMPLETE, 0.1)
    sweep.add(PRUNED, curve={25: 0.01}, name=shared)
    sweep.add(RUNNING, name=bad)
    assert sweep.trim(0) == []


def test_a_trial_that_failed_in_a_shared_stage_does_not_take_it_along(sweep: Sweep) -> None:
    sweep.add(COMPLETE, 0.9)
    stages = {"pretrain": "pretrain-aaaaaaaaaaaa"}
    sweep.add(TrialState.FAIL, outcome="failed", stages=stages, name="other-bbbbbbbbbbbb")
    assert sweep.trim(0) == []


def test_as_long_as_no_trial_was_judged_nothing_is_known_to_be_expendable(sweep: Sweep) -> None:
    sweep.add(TrialState.FAIL, outcome="failed")
    assert sweep.trim(0) == []


def test_a_half_deleted_directory_is_deleted_the_next_time(sweep: Sweep) -> None:
    sweep.add(COMPLETE, 0.9)
    name = sweep.add(COMPLETE, 0.5)
    (sweep.root / "stages" / name / "checkpoints" / "step-00000004" / "model.safetensors").unlink()
    assert sweep.trim(2) == [name]


def test_a_study_that_has_not_begun_has_nothing_to_delete(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    assert trim(Location.parse(tmp_path / "none"), study, 0, 3) == []


def test_a_storage_that_fails_does_not_end_the_sweep(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(place: Location) -> None:
        raise StorageError(f"{place}: cannot be deleted: read-only")

    sweep.add(COMPLETE, 0.9)
    sweep.add(COMPLETE, 0.5)
    monkeypatch.setattr(Location, "delete", fail)
    with caplog.at_level(logging.WARNING):
        assert sweep.trim(0) == []
    assert "cannot be deleted" in caplog.text


def test_a_directory_that_changes_while_it_is_listed_is_listed_again(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changing:
        def __init__(self, filesystem: Any) -> None:
            self.filesystem, self.calls = filesystem, 0

        def get_file_info(self, selector: Any) -> Any:
            self.calls += 1
            if self.calls < disk.ATTEMPTS:
                raise FileNotFoundError(2, "gone")
            return self.filesystem.get_file_info(selector)

    place = Location.parse(sweep.root) / "stages"
    flaky = Location(Changing(place.filesystem), place.path)  # type: ignore[arg-type]
    assert checkpoint_sizes(flaky) == {"pretrain-aaaaaaaaaaaa": SIZE}
