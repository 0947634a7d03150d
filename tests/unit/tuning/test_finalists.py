"""The best trials on fresh tasks: real stages of a toy recipe, found and not repeated."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from fsl.errors import ConfigError, StageError
from pipelines.compare.asked import Bank
from pipelines.runner import StageEvent, run_pipeline
from tests.toy_study import RECIPE, write_study
from tuning.config import StudyConfig, load_study
from tuning.finalists import Finalists, check_finalists, choose, run_finalists
from tuning.space import Space, build_space

SETTINGS = ((10.0, 0.01), (1.0, 0.01), (30.0, 0.03))
FILES = ("finalists.json", "finalists.md", "finalists.html", "finalists.png")


class Sweep:
    """A study over the toy recipe with trials that were really trained."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.again(**changes)
        self.study = optuna.create_study(direction="maximize")

    def again(self, **changes: Any) -> None:
        """Read the study file anew, as the next call of the program does."""
        self.config: StudyConfig = load_study(write_study(self.folder, **changes))
        self.space: Space = build_space(self.config)

    def train(self, params: Mapping[str, Any]) -> None:
        """Run a trial with these settings, as the sweep does."""
        self.study.enqueue_trial(dict(params))
        trial = self.study.ask()
        self.space.suggest(trial)
        stages: dict[str, str] = {}

        def note(event: StageEvent) -> None:
            stages[event.stage.label] = event.stage.path.name

        branch = self.space.branch_of(trial.params)
        results = run_pipeline(self.space.trial_recipe(trial.params), note, shared=True)
        metrics = dict(results[branch.objective].metrics)
        for name, value in {
            "recipe": branch.label, "outcome": "complete", "stages": stages, "metrics": metrics,
        }.items():  # fmt: skip
            trial.set_user_attr(name, value)
        self.study.tell(trial, metrics["val_accuracy"])

    def judged_by(self, *goals: str) -> None:
        """Let the same trials have been judged by these numbers."""
        self.again(goals=[{"metric": goal} for goal in goals])
        ways = [goal.direction for goal in self.config.goals]
        study = optuna.create_study(directions=ways)
        for trial in self.study.trials:
            trial.values = [trial.user_attrs["metrics"][goal] for goal in goals]
            study.add_trial(trial)
        self.study = study

    def finalists(self) -> Finalists:
        found = run_finalists(self.space, self.config, self.study)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A study of three trials; tests copy it."""
    sweep = Sweep(tmp_path_factory.mktemp("trained"))
    for temperature, lr in SETTINGS:
        sweep.train({"method.temperature": temperature, "optim.lr": lr})
    return sweep


@pytest.fixture
def sweep(trained: Sweep, tmp_path: Path) -> Sweep:
    shutil.copytree(trained.folder, tmp_path, dirs_exist_ok=True)
    copy = Sweep(tmp_path)
    copy.study = trained.study
    return copy


def content(sweep: Sweep) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads((sweep.folder / "study" / FILES[0]).read_text())
    return found


def stages(sweep: Sweep) -> dict[str, float]:
    """Return the stage directories with the time of their result."""
    place = sweep.folder / "study" / "stages"
    return {
        path.parent.name: path.stat().st_mtime_ns for path in sorted(place.glob("*/result.json"))
    }


def test_the_best_answer_fresh_tasks_and_nothing_is_trained_again(sweep: Sweep) -> None:
    before = stages(sweep)
    result = sweep.finalists()
    after = stages(sweep)
    assert {name: after[name] for name in before} == before
    new = sorted(name.rpartition("-")[0] for name in after.keys() - before.keys())
    best = choose(sweep.study, 2)
    assert new == sorted(f"evaluate_trial_{trial.number:04d}" for trial in best)
    assert [finalist.number for finalist in result.trials] == [trial.number for trial in best]
    assert result.comparison is not None
    (panel,) = result.comparison.panels
    assert {row.name for row in panel.rows} == {f"trial_{trial.number:04d}" for trial in best}
    assert isinstance(panel.bank, Bank)
    assert (panel.bank.split, panel.bank.seed) == ("val", sweep.config.finalists.seed)
    assert (panel.bank.ways, panel.bank.shots, panel.bank.tasks) == (3, 1, 50)


def test_all_files_are_written_and_say_the_same(sweep: Sweep) -> None:
    result = sweep.finalists()
    tree = content(sweep)
    assert [trial["number"] for trial in tree["trials"]] == [t.number for t in result.trials]
    assert tree["sentences"] == list(result.sentences)
    for name in FILES[1:3]:
        text = (sweep.folder / "study" / name).read_text()
        assert "winner&#39;s curse" in text or "winner's curse" in text
        assert "trial_000" in text
    assert (sweep.folder / "study" / FILES[3]).read_bytes().startswith(b"\x89PNG")


def test_the_fall_from_search_to_fresh_tasks_is_stated(sweep: Sweep) -> None:
    result = sweep.finalists()
    for trial, change in zip(result.trials, result.changes, strict=True):
        assert trial.search == sweep.study.trials[trial.number].value
        assert trial.search is not None
        assert change == pytest.approx(trial.fresh[0].mean - trial.search)
        moved = f"{trial.name} {100 * trial.search:.2f} → {100 * trial.fresh[0].mean:.2f} ±"
        assert any(moved in sentence for sentence in result.sentences)
    words = " ".join(result.sentences)
    assert "winner's curse" in words
    assert "best.yaml has the settings of" in words
    assert "The novel classes are still to be asked: fewshot run best.yaml" in words


@pytest.mark.parametrize(
    ("goals", "chosen", "luck"),
    [
        (
            ("step_seconds", "val_accuracy"),
            "of the Pareto front of 3 trials by step_seconds and val_accuracy",
            True,
        ),
        (("step_seconds",), "the best of 3 trials by step_seconds", False),
    ],
)
def test_with_other_goals_than_accuracy_no_finalist_is_called_better(
    sweep: Sweep, goals: tuple[str, ...], chosen: str, luck: bool
) -> None:
    sweep.judged_by(*goals)
    result = sweep.finalists()
    words = " ".join(result.sentences)
    assert chosen in words
    assert "tasks that chose" not in words
    assert ("winner's curse" in words) is luck
    assert ("by which the search chose" in words) is luck
    assert "best.yaml has the settings of" not in words


def test_a_second_call_only_reads(sweep: Sweep) -> None:
    first, before = sweep.finalists(), stages(sweep)
    again = sweep.finalists()
    assert stages(sweep) == before
    assert str(again) == str(first)


def test_what_was_interrupted_goes_on_where_it_was(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.stages.evaluate import EvaluateStage

    run, asked = EvaluateStage.run, []

    def die(self: EvaluateStage, *rest: Any) -> Any:
        asked.append(self.label)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return run(self, *rest)

    monkeypatch.setattr(EvaluateStage, "run", die)
    with pytest.raises(KeyboardInterrupt):
        sweep.finalists()
    assert not (sweep.folder / "study" / FILES[0]).exists()
    sweep.finalists()
    assert asked == [asked[0], asked[1], asked[1]]


def test_a_single_finalist_is_told_how_much_of_its_value_was_luck(sweep: Sweep) -> None:
    sweep.finalists()
    sweep.again(finalists={"count": 1, "ways": [3], "queries": 4, "tasks": 50})
    result = sweep.finalists()
    assert result.comparison is None
    assert "on fresh tasks: " in str(result)
    assert "winner's curse" in str(result)
    assert len(content(sweep)["trials"]) == 1
    assert [name for name in FILES if (sweep.folder / "study" / name).exists()] == list(FILES[:2])


def test_other_tasks_than_the_search_asked_give_no_fall(sweep: Sweep) -> None:
    sweep.again(finalists={"count": 2, "ways": [4], "shots": [1, 2], "queries": 4, "tasks": 50})
    result = sweep.finalists()
    assert result.changes == []
    assert result.comparison is not None
    assert len(result.comparison.panels) == 2
    assert "it cannot be told how much its values fell" in " ".join(result.sentences)


def test_a_trial_whose_checkpoints_are_gone_is_left_out_with_a_word(sweep: Sweep) -> None:
    sweep.finalists()
    third = choose(sweep.study, 3)[-1]
    directory = third.user_attrs["stages"]["second"]
    shutil.rmtree(sweep.folder / "study" / "stages" / directory / "checkpoints")
    sweep.again(finalists={"count": 3, "ways": [3], "queries": 4, "tasks": 50})
    result = sweep.finalists()
    assert len(result.trials) == 2
    assert f"trial {third.number} is left out: its checkpoints were deleted" in str(
        result.sentences
    )


def test_an_answer_that_was_given_needs_no_checkpoints(sweep: Sweep) -> None:
    before = str(sweep.finalists())
    for place in (sweep.folder / "study" / "stages").glob("second-*/checkpoints"):
        shutil.rmtree(place)
    assert str(sweep.finalists()) == before


def test_without_a_complete_trial_there_is_no_finalist(sweep: Sweep) -> None:
    sweep.study = optuna.create_study(direction="maximize")
    assert run_finalists(sweep.space, sweep.config, sweep.study) is None


def test_without_a_finalist_no_earlier_comparison_stays(sweep: Sweep) -> None:
    sweep.finalists()
    assert all((sweep.folder / "study" / name).exists() for name in FILES)
    sweep.again(finalists={"count": 0})
    assert run_finalists(sweep.space, sweep.config, sweep.study) is None
    assert not any((sweep.folder / "study" / name).exists() for name in FILES)


def on_features() -> dict[str, Any]:
    """Return the toy recipe with a method that learns from a feature table, judged last."""
    recipe = copy.deepcopy(RECIPE)
    second = recipe["stages"].pop("second")
    del recipe["stages"]["evaluate"]
    recipe["stages"]["features"] = {"kind": "extract_features", "needs": ["shards", "first"]}
    same = {name: second[name] for name in ("episodes", "optim", "validation", "cluster")}
    method = {"name": "awgim", "width": 8, "heads": 2}
    recipe["stages"]["awgim"] = {"kind": "train", "needs": ["features"], "method": method, **same}
    return recipe


@pytest.mark.slow
def test_a_method_on_features_answers_the_same_tasks_as_one_on_images(tmp_path: Path) -> None:
    lr = {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    recipes = {
        "images": {"recipe": "recipe.yaml", "search": lr},
        "vectors": {"recipe": "vectors.yaml", "search": lr},
    }
    (tmp_path / "vectors.yaml").write_text(yaml.safe_dump(on_features(), sort_keys=False))
    sweep = Sweep(tmp_path, recipes=recipes, recipe="-", search="-")
    for label in recipes:
        sweep.train({"recipe": label, f"{label}.optim.lr": 0.01})
    result = sweep.finalists()
    assert {trial.name for trial in result.trials} == {"trial 0 (images)", "trial 1 (vectors)"}
    assert result.comparison is not None
    (panel,) = result.comparison.panels
    assert {row.name for row in panel.rows} == {"trial_0000", "trial_0001"}


@pytest.mark.parametrize(
    ("split", "words"),
    [("novel", "classes for the final evaluation"), ("base", "is trained on by stage 'first'")],
)
def test_classes_that_must_not_be_asked_are_refused_before_any_trial(
    tmp_path: Path, split: str, words: str
) -> None:
    finalists = {"count": 2, "split": split, "ways": [3], "queries": 4}
    sweep = Sweep(tmp_path, finalists=finalists)
    with pytest.raises(ConfigError, match=words):
        check_finalists(sweep.space, sweep.config)


def test_tasks_that_the_data_cannot_serve_are_refused_once_it_is_there(sweep: Sweep) -> None:
    sweep.again(finalists={"count": 2, "ways": [400], "queries": 4})
    with pytest.raises((ConfigError, StageError), match=r"finalists: .*400 classes per episode"):
        check_finalists(sweep.space, sweep.config)
