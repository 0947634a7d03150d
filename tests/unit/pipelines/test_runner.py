"""The runner: skip what is done, continue what was interrupted, keep what is good."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fsl.errors import FewShotError, StageError
from pipelines.runner import PipelineConfig, StageEvent, plan, run_pipeline
from pipelines.stage import STAGES


def states(config: PipelineConfig) -> list[str]:
    return [item.state for item in plan(config).values()]


def test_results_pass_from_stage_to_stage(recipe: Any) -> None:
    results = run_pipeline(recipe(stages__first__value=3.0))
    assert results["second"].metrics == {"value": 6.0}


def test_a_second_run_does_nothing_and_returns_the_same(recipe: Any, runs: list[str]) -> None:
    first = run_pipeline(recipe())
    assert run_pipeline(recipe()) == first
    assert runs == ["number", "double"]


def test_changing_the_second_stage_reuses_the_first(recipe: Any, runs: list[str]) -> None:
    run_pipeline(recipe())
    run_pipeline(recipe(stages__second__add=1.0))
    assert runs == ["number", "double", "double"]


def test_going_back_to_old_settings_finds_their_result(recipe: Any, runs: list[str]) -> None:
    for add in (0.0, 1.0, 0.0):
        run_pipeline(recipe(stages__second__add=add))
    assert runs == ["number", "double", "double"]


@pytest.mark.parametrize("fault", ["mistake", "bug", "disk", "interrupt"])
def test_an_interrupted_stage_continues_in_its_directory(recipe: Any, fault: str) -> None:
    config = recipe(stages__second__fail=fault)
    with pytest.raises((FewShotError, ZeroDivisionError, KeyboardInterrupt)):
        run_pipeline(config)
    assert states(config) == ["done", "continue"]
    result = run_pipeline(config)["second"]
    assert result.metrics["continued"] == 1.0


def test_a_failing_stage_is_named_with_its_directory(recipe: Any) -> None:
    config = recipe(stages__second__fail="mistake")
    with pytest.raises(StageError, match=r"stage 'second' \(toy_double\) in .*second-[0-9a-f]{12}"):
        run_pipeline(config)


def test_a_full_disk_tells_the_remedy(recipe: Any) -> None:
    with pytest.raises(StageError, match=r"No space left on device; free some space .* continue"):
        run_pipeline(recipe(stages__second__fail="disk"))


def test_a_bug_keeps_its_type_and_says_where(recipe: Any) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_pipeline(recipe(stages__second__fail="bug"))
    assert "in stage 'second'" in caught.value.__notes__[0]


def test_events_tell_what_happens(recipe: Any) -> None:
    seen: list[str] = []

    def watch(event: StageEvent) -> None:
        seen.append(f"{event.stage.label} {event.state}")

    run_pipeline(recipe(), watch)
    run_pipeline(recipe(), watch)
    assert seen == [
        "first started", "first done", "second started", "second done",
        "first skipped", "second skipped",
    ]  # fmt: skip


def test_the_directory_tells_settings_inputs_and_origin(recipe: Any) -> None:
    path = run_pipeline(recipe())["second"].path.local
    assert path is not None
    config = json.loads((path / "config.json").read_text())
    assert config["config"]["needs"] == ["first"]
    assert config["inputs"][0]["label"] == "first"
    made = json.loads((path / "provenance.json").read_text())
    assert made["seeds"] == {"pipeline": 0, "stage": 0}
    assert made["packages"]["torch"] != "not installed"


def test_a_moved_run_directory_stays_done(recipe: Any, tmp_path: Path) -> None:
    run_pipeline(recipe())
    (tmp_path / "run").rename(tmp_path / "moved")
    assert states(recipe(run_dir=str(tmp_path / "moved"))) == ["done", "done"]


def test_a_number_that_is_not_finite_survives(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STAGES.get("toy_number"), "run", lambda *_: {"value": math.inf})
    run_pipeline(recipe())
    assert math.isnan(run_pipeline(recipe())["first"].metrics["value"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: text.replace('"value": 1.0', '"value": 9.0'), "not what the stage wrote"),
        (lambda text: "[]", "not a JSON object"),
        (lambda text: "", "not valid JSON"),
    ],
)
def test_a_damaged_result_is_refused(recipe: Any, damage: Any, words: str) -> None:
    path = run_pipeline(recipe())["first"].path / "result.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(StageError, match=f"{words}.*delete .*first-"):
        run_pipeline(recipe())


def test_an_attempt_of_other_settings_is_refused(recipe: Any) -> None:
    config = recipe(stages__second__fail="mistake")
    with pytest.raises(StageError):
        run_pipeline(config)
    path = plan(config)["second"].path / "config.json"
    path.write_text(path.read_text().replace(plan(config)["second"].key, "0" * 64))
    with pytest.raises(StageError, match="belongs to a stage with the key"):
        run_pipeline(config)


def test_nothing_runs_when_a_later_stage_is_wrong(recipe: Any, runs: list[str]) -> None:
    with pytest.raises(StageError):
        run_pipeline(recipe(stages__second__needs=[]))
    assert runs == []


def test_a_circle_is_shown(recipe: Any) -> None:
    stages = {
        "a": {"kind": "toy_double", "needs": ["c"]},
        "b": {"kind": "toy_double", "needs": ["a"]},
        "c": {"kind": "toy_double", "needs": ["b"]},
    }
    with pytest.raises(StageError, match="in a circle: a -> c -> b -> a"):
        plan(recipe(stages=stages))


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (["frist"], "no stage 'frist'; did you mean 'first'"),
        (["second"], "'second' needs itself"),
        (["first", "first"], "'first' is listed twice"),
        (["third"], "'third' comes later in the recipe; write it above 'second'"),
    ],
)
def test_wrong_needs_are_explained(recipe: Any, needs: list[str], words: str) -> None:
    with pytest.raises(StageError, match=words):
        plan(recipe(stages__second__needs=needs, stages__third={"kind": "toy_number"}))


def renamed(recipe: Any, **changes: Any) -> PipelineConfig:
    """Return the two stages under other labels."""
    stages = {"a": {"kind": "toy_number"}, "b": {"kind": "toy_double", "needs": ["a"]}}
    config: PipelineConfig = recipe(stages=stages, **changes)
    return config


def test_renaming_stages_repeats_nothing(recipe: Any, runs: list[str]) -> None:
    before = run_pipeline(recipe())
    after = run_pipeline(renamed(recipe))
    assert runs == ["number", "double"]
    assert [(item.label, item.path.name[:7]) for item in after.values()] == [
        ("a", "first-" + before["first"].key[0]),
        ("b", "second-"),
    ]
    assert after["b"].metrics == before["second"].metrics


def test_a_renamed_stage_continues_what_was_interrupted(recipe: Any) -> None:
    with pytest.raises(StageError):
        run_pipeline(recipe(stages__second__fail="mistake"))
    config = renamed(recipe, stages__b__fail="mistake")
    assert states(config) == ["done", "continue"]
    result = run_pipeline(config)["b"]
    assert result.metrics["continued"] == 1.0
    content = json.loads((result.path / "result.json").read_text())
    assert content["label"] == "b"
    assert content["inputs"][0]["label"] == "a"
    assert content["inputs"][0]["dir"].startswith("first-")
    assert states(config) == ["done", "done"]


def test_a_finished_directory_is_preferred_to_one_that_was_begun(recipe: Any) -> None:
    done = run_pipeline(recipe())["first"].path.local
    assert done is not None
    begun = done.with_name(done.name.replace("first", "early"))
    begun.mkdir()
    (begun / "config.json").write_text((done / "config.json").read_text())
    assert plan(renamed(recipe))["a"].path.local == done


def test_equal_stages_of_one_recipe_are_one(recipe: Any, runs: list[str]) -> None:
    stages = {"a": {"kind": "toy_number"}, "b": {"kind": "toy_number"}}
    results = run_pipeline(recipe(stages=stages))
    assert runs == ["number"]
    assert results["a"].path == results["b"].path
