"""The best trials once more, on tasks that the search has not seen, compared pair by pair.

Their models are found in the study's stages and only answer; nothing is trained again. Every
evaluation is a stage, so that an interrupted comparison goes on where it was.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from data_shards.location import Location
from fsl.config import build
from fsl.errors import ConfigError
from pipelines.accuracies import read_table
from pipelines.checkpoint import find_checkpoints
from pipelines.commands import duration
from pipelines.compare import compare
from pipelines.compare.comparison import Comparison
from pipelines.compare.files import write
from pipelines.compare.numbers import as_json
from pipelines.compare.table import text
from pipelines.runner import PipelineConfig, StageEvent, plan, run_planned
from pipelines.stage import STAGES
from pipelines.train_config import TrainConfig
from tuning.candidate import SEALED, Branch
from tuning.config import SCORE, StudyConfig
from tuning.finalist_words import Finalist, Fresh, accuracies, changes, sentences
from tuning.outcome import own_trials
from tuning.ranking import choose
from tuning.recipe_tree import STAGES_DIR
from tuning.space import Space

__all__ = ["Finalists", "check_finalists", "choose", "run_finalists"]
FILE = "finalists"
SUFFIXES = (".json", ".md", ".html", ".png")
PACE = ("batch_size", "loader_workers")
"""Settings of an evaluate stage that change nothing but its speed and memory."""


@dataclass(frozen=True)
class Finalists:
    """What the fresh tasks say.

    Attributes:
        trials: the best, the search's best first.
        comparison: their table; None for a single one.
        sentences: what is to be known before one believes the numbers.
        changes: fresh minus search accuracy of each trial; empty where they were asked otherwise.
    """

    trials: Sequence[Finalist]
    comparison: Comparison | None
    sentences: Sequence[str]
    changes: Sequence[float]

    def text(self, width: int = 100) -> str:
        """Return tables and sentences for a terminal."""
        if self.comparison is not None:
            return text(self.comparison, width)
        lines = [f"- {sentence}" for sentence in self.sentences]
        wrapped = [textwrap.fill(line, width, subsequent_indent="  ") for line in lines]
        return "\n".join([*(accuracies(trial) for trial in self.trials), "", *wrapped])

    def __str__(self) -> str:
        return self.text()


def check_finalists(space: Space, config: StudyConfig) -> None:
    """Find what is wrong with the fresh tasks before any trial runs.

    Raises:
        ConfigError: they are of classes that are trained on or kept for the end, or the data
            cannot serve them (as far as they are there already).
    """
    if not config.finalists.count:
        return
    for branch in space.branches.values():
        recipe = branch.recipe()
        _check_split(branch, recipe, config)
        try:
            plan(_recipe(branch, recipe, config, "finalist"))
        except ConfigError as error:
            raise ConfigError(f"finalists: {error}") from None


def run_finalists(space: Space, config: StudyConfig, study: optuna.Study) -> Finalists | None:
    """Let the best trials answer fresh tasks; write `finalists.json`, `.md`, `.html` and `.png`.

    Returns:
        What they answered; None, and no file of an earlier comparison, when there is no finalist.

    Raises:
        FewShotError: an evaluation failed; what was done is kept.
    """
    found: dict[str, Finalist] = {}
    notes: list[str] = []
    chosen = choose(study, config.finalists.count)
    for trial in chosen:
        finalist = _ask(space, config, trial)
        if finalist is None:
            notes.append(
                f"trial {trial.number} is left out: its checkpoints were deleted to make room "
                "(trials.checkpoint_gb)."
            )
        elif finalist.directory in found:
            twin = found[finalist.directory].name
            notes.append(f"trial {trial.number} is left out: its training is that of {twin}.")
        else:
            found[finalist.directory] = finalist
    if not found:
        for suffix in SUFFIXES:
            (config.root / f"{FILE}{suffix}").delete()
        return None
    trials = list(found.values())
    comparison = _comparison(config, trials) if len(trials) > 1 else None
    asked = next(iter(space.branches.values())).judged().validation
    valued = [
        trial
        for trial in own_trials(study)
        if trial.state == TrialState.COMPLETE or trial.intermediate_values
    ]
    said = sentences(
        trials,
        comparison,
        asked,
        config.finalists,
        goals=[goal.metric for goal in config.goals],
        trials=len(valued),
        best=chosen[0].number,
    )
    said += notes
    if comparison is not None:
        comparison = replace(comparison, notes=[*said, *comparison.notes])
    result = Finalists(trials, comparison, said, changes(trials, asked, config.finalists))
    _write(result, config.root)
    return result


def _check_split(branch: Branch, recipe: PipelineConfig, config: StudyConfig) -> None:
    """Refuse classes that are trained on, and those that nothing may be chosen by."""
    split = config.finalists.split
    if split == SEALED:
        raise ConfigError(
            f"finalists.split: {split!r} holds the classes for the final evaluation, and nothing "
            "may be chosen by them; use val, and ask them of the best recipe alone: fewshot run "
            "best.yaml"
        )
    for label, stage in recipe.stages.items():
        if isinstance(stage, TrainConfig) and split in stage.splits:
            raise ConfigError(
                f"finalists.split: {split!r} is trained on by stage {label!r} of {branch.origin}; "
                "use a split that no stage trains on"
            )


def _ask(space: Space, config: StudyConfig, trial: FrozenTrial) -> Finalist | None:
    """Let a trial's model answer; None when its checkpoints are gone."""
    branch = space.branch_of(trial.params)
    label = f"trial_{trial.number:04d}"
    recipe = space.trial_recipe(trial.params)
    _check_split(branch, recipe, config)
    recipe = _recipe(branch, recipe, config, label)
    planned = plan(recipe)
    *_, judged, evaluation = planned.values()
    if evaluation.state != "done" and judged.state == "done" and not _has_model(judged.path):
        return None
    name = f"trial {trial.number}" + (f" ({branch.label})" if len(space.branches) > 1 else "")
    results = run_planned(recipe, planned, Progress(name), shared=True)
    place = results[evaluation.label].path
    fresh = [
        Fresh(item.setting.ways, item.setting.shots, item.mean.mean, item.mean.half_width)
        for item in read_table(place)
        if item.model == label
    ]
    search = trial.user_attrs.get("metrics", {}).get(SCORE)
    return Finalist(
        trial.number, name, label, branch.label, dict(trial.params), search, fresh, place.name
    )


def _recipe(
    branch: Branch, recipe: PipelineConfig, config: StudyConfig, label: str
) -> PipelineConfig:
    """Return a trial's recipe with its judged stage called `label`, and the fresh tasks for it."""
    tree = recipe.model_dump(mode="json")
    judged = tree["stages"].pop(branch.objective)
    sources = [
        need
        for need in judged["needs"]
        if STAGES.get(recipe.stages[need].kind).gives in ("shards", "features")
    ]
    asked = config.finalists.model_dump(mode="json", exclude={"count"})
    evaluation = {
        "kind": "evaluate",
        "needs": [*sources, label],
        "protocols": ["method"],
        **asked,
        **_pace(branch),
    }
    stages = {**tree["stages"], label: judged, f"evaluate_{label}": evaluation}
    return build(PipelineConfig, {**tree, "stages": stages}, origin=branch.origin)


def _pace(branch: Branch) -> dict[str, Any]:
    """Return how the recipe's own evaluation of this model goes about it, if there is one."""
    for stage in branch.source["stages"].values():
        if stage["kind"] == "evaluate" and branch.objective in stage.get("needs", ()):
            return {name: stage[name] for name in PACE if name in stage}
    return {}


def _has_model(stage: Location) -> bool:
    """Return whether the best checkpoint of a finished train stage is still there."""
    name = str(json.loads((stage / "best.json").read_text())["checkpoint"])
    return name.rpartition("/")[2] in find_checkpoints(stage)


def _comparison(config: StudyConfig, trials: Sequence[Finalist]) -> Comparison:
    """Return the tables; a trained feature table among the answers is no finalist."""
    places = [config.root / STAGES_DIR / trial.directory for trial in trials]
    return compare(places, labels=[trial.label for trial in trials])


def _write(result: Finalists, root: Location) -> None:
    """Write the files; one that cannot be made of a single trial is deleted."""
    tables: dict[str, Any] = {"panels": [], "cautions": [], "notes": list(result.sentences)}
    if result.comparison is not None:
        tables = json.loads(as_json(result.comparison))
    tree = {
        "trials": [asdict(trial) for trial in result.trials],
        "changes": list(result.changes),
        "sentences": list(result.sentences),
        **tables,
    }
    (root / f"{FILE}.json").write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    for suffix in SUFFIXES[1:]:
        place = root / f"{FILE}{suffix}"
        if result.comparison is not None:
            write(result.comparison, place)
        elif suffix == ".md":
            place.write_text(result.text() + "\n")
        else:
            place.delete()


class Progress:
    """Says on stderr what a finalist is at.

    Args:
        name: of the trial.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, event: StageEvent) -> None:
        """Say what is begun; what was found done needs no word."""
        what = "fresh tasks" if event.stage.config.kind == "evaluate" else event.stage.label
        words = {
            "started": f"{what} begun",
            "continued": f"{what} continued",
            "waiting": f"{what}: waits for another run that is at work on it",
            "done": f"{what} done in {duration(event.seconds)}",
        }
        if event.state in words:
            print(f"finalist {self.name}: {words[event.state]}", file=sys.stderr, flush=True)
