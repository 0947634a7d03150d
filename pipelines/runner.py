"""Run a recipe's stages in order, each key once; continue what was interrupted.

Every stage has a directory `<run_dir>/<label>-<key>/`. `config.json` is written there first and
`result.json` is renamed into place last: a directory without it is an interrupted attempt and is
handed back to the stage. Everything that can be found wrong is found before anything runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from data_shards.location import Location
from fsl.config import Section
from fsl.errors import ConfigError, FewShotError, StageError, did_you_mean
from pipelines import records
from pipelines.lock import run_lock
from pipelines.provenance import write_provenance
from pipelines.stage import (
    STAGES,
    AnyStageConfig,
    PlannedStage,
    StageConfig,
    StageResult,
    check_inputs,
)
from pipelines.stage_lock import stage_lock
from pipelines.watch import TrainingStopped

Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,40}$")]


class PipelineConfig(Section):
    """A recipe: stages by label, in the order they run."""

    name: Annotated[str, Field(min_length=1)] = "recipe"
    """Name of the run; the command line sets the recipe's file name."""
    run_dir: str | None = None
    """Where results go, a directory or a URI such as s3://bucket/runs; default runs/<name>."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of every stage that does not set its own."""
    stages: Annotated[dict[Label, AnyStageConfig], Field(min_length=1)]
    """Stages by label; the label names the stage's directory."""

    @field_validator("run_dir")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("name a directory or a URI, or leave it out for runs/<name>")
        return value

    @property
    def root(self) -> Location:
        """The run directory."""
        return Location.parse(self.run_dir or f"runs/{self.name}")


@dataclass(frozen=True)
class StageEvent:
    """Something a watcher of a run may want to show.

    Attributes:
        stage: the stage as it was planned.
        state: what happened to it; it is `waiting` when another run is at work on it, and
            `stopped` when a watcher ended its training.
        result: there when skipped or done.
        seconds: time it took, when done, stopped or failed.
    """

    stage: PlannedStage
    state: Literal["skipped", "waiting", "started", "continued", "done", "stopped", "failed"]
    result: StageResult | None = None
    seconds: float = 0.0


def ignore(event: StageEvent) -> None:
    """Do nothing: the watcher of a run that nobody watches."""
    del event


def plan(config: PipelineConfig) -> dict[str, PlannedStage]:
    """Return the stages with keys, directories and states, after checking all that is checkable.

    Raises:
        FewShotError: wrong `needs`, a stage's own check failed, or a damaged earlier result.
    """
    root = config.root
    _check_order(config.stages)
    planned: dict[str, PlannedStage] = {}
    for label, stage_config in config.stages.items():
        seeded = _with_seed(stage_config, config.seed)
        stage = STAGES.get(seeded.kind)(seeded)
        stage.label = label
        inputs = {name: planned[name] for name in seeded.needs}
        check_inputs(label, stage, inputs)
        try:
            stage.check(inputs)
            key = stage.key([item.key for item in inputs.values()])
        except FewShotError as error:
            raise ConfigError(f"stages.{label} ({seeded.kind}): {error}") from error
        path = root / f"{label}-{key[:12]}"
        planned[label] = _with_state(PlannedStage(label, stage, key, path, "run", inputs))
    return planned


def run_pipeline(
    config: PipelineConfig,
    on_event: Callable[[StageEvent], None] = ignore,
    *,
    shared: bool = False,
) -> dict[str, StageResult]:
    """Run what is not done yet; return the results by label.

    Args:
        config: the recipe.
        on_event: told what happens to each stage.
        shared: whether other pipelines may run in the same directory meanwhile (in this mode
            too). Each stage is then run by one of them, and the others wait for it.

    Raises:
        FewShotError: found before anything ran, or a stage failed; earlier results stay.
        TrainingStopped: a watcher ended a training, see `pipelines.watch`.
    """
    # planned before the lock is taken: a mistake in the recipe must not make a directory
    return run_planned(config, plan(config), on_event, shared=shared)


def run_planned(
    config: PipelineConfig,
    planned: Mapping[str, PlannedStage],
    on_event: Callable[[StageEvent], None] = ignore,
    *,
    shared: bool = False,
) -> dict[str, StageResult]:
    """Run what `plan` returned for these settings, as `run_pipeline` does."""
    with nullcontext() if shared else run_lock(config.root):
        results: dict[str, StageResult] = {}
        for label, before in planned.items():
            inputs = {name: results[name] for name in before.config.needs}
            if shared:
                results[label] = _run_alone(before, inputs, on_event, config)
            else:
                results[label] = _run_once(before, inputs, on_event, config)
    return results


def _run_alone(
    planned: PlannedStage,
    inputs: Mapping[str, StageResult],
    on_event: Callable[[StageEvent], None],
    config: PipelineConfig,
) -> StageResult:
    """Return the stage's result, of this run or of another one that is at work on it."""
    if _with_state(planned).state == "done":  # a done stage needs no lock
        return _run_once(planned, inputs, on_event, config)
    with stage_lock(config.root, planned.key, lambda: on_event(StageEvent(planned, "waiting"))):
        return _run_once(planned, inputs, on_event, config)


def _run_once(
    before: PlannedStage,
    inputs: Mapping[str, StageResult],
    on_event: Callable[[StageEvent], None],
    config: PipelineConfig,
) -> StageResult:
    """Return the stage's result; run it unless it is done."""
    stage = _with_state(before)  # another run may have ended since
    if stage.result is None:
        return _run_stage(stage, inputs, on_event, config)
    on_event(StageEvent(stage, "skipped", stage.result))
    return stage.result


def _run_stage(
    planned: PlannedStage,
    inputs: Mapping[str, StageResult],
    on_event: Callable[[StageEvent], None],
    config: PipelineConfig,
) -> StageResult:
    """Run one stage in its directory and mark it done."""
    on_event(StageEvent(planned, "continued" if planned.state == "continue" else "started"))
    begun = time.time()
    try:
        planned.path.make_dir()
        records.write_config(planned)
        write_provenance(planned.path, {"pipeline": config.seed, "stage": _seed(planned.config)})
        metrics = planned.stage.run(inputs, planned.path)
        result = records.write_result(planned, metrics, begun)
    except TrainingStopped:
        on_event(StageEvent(planned, "stopped", seconds=time.time() - begun))
        raise
    except (FewShotError, OSError) as error:
        on_event(StageEvent(planned, "failed", seconds=time.time() - begun))
        raise StageError(
            f"stage {planned.label!r} ({planned.config.kind}) in {planned.path}: {error}"
            + records.remedy(error)
        ) from error
    except Exception as error:  # a bug of ours keeps its traceback, and says where it happened
        on_event(StageEvent(planned, "failed", seconds=time.time() - begun))
        error.add_note(f"in stage {planned.label!r}, directory {planned.path}")
        raise
    on_event(StageEvent(planned, "done", result, time.time() - begun))
    return result


def _with_state(planned: PlannedStage) -> PlannedStage:
    """Return the stage with what is in its directory."""
    result, finished = records.read_result(planned)
    if result is not None:
        return replace(planned, state="done", result=result, finished=finished)
    return replace(planned, state="continue" if records.has_attempt(planned) else "run")


def _check_order(stages: Mapping[str, StageConfig]) -> None:
    """Raise StageError when a `needs` names no earlier stage."""
    labels = list(stages)
    for position, (label, config) in enumerate(stages.items()):
        where = f"stages.{label}.needs"
        for needed in config.needs:
            if needed not in stages:
                raise StageError(
                    f"{where}: there is no stage {needed!r}{did_you_mean(needed, labels)}; "
                    f"stages: {', '.join(labels)}"
                )
            if config.needs.count(needed) > 1:
                raise StageError(f"{where}: {needed!r} is listed twice; remove one")
            if labels.index(needed) >= position:
                raise StageError(f"{where}: {_late(label, needed, stages)}")


def _late(label: str, needed: str, stages: Mapping[str, StageConfig]) -> str:
    """Return the message for a needed stage that does not come earlier."""
    if needed == label:
        return f"{label!r} needs itself; remove it from the list"
    back = _way(needed, label, stages, set())
    if back:
        return f"the stages need one another in a circle: {' -> '.join([label, *back])}"
    return f"{needed!r} comes later in the recipe; write it above {label!r}"


def _way(start: str, goal: str, stages: Mapping[str, StageConfig], seen: set[str]) -> list[str]:
    """Return the labels on a way from `start` to `goal` along `needs`, or nothing."""
    if start == goal:
        return [start]
    seen.add(start)
    for needed in stages[start].needs:
        if needed in stages and needed not in seen:
            rest = _way(needed, goal, stages, seen)
            if rest:
                return [start, *rest]
    return []


def _with_seed(config: StageConfig, seed: int) -> StageConfig:
    """Return the settings with the recipe's seed, where they have a seed and leave it open."""
    if "seed" in type(config).model_fields and _seed(config) is None:
        return config.model_copy(update={"seed": seed})
    return config


def _seed(config: Any) -> int | None:
    seed: int | None = getattr(config, "seed", None)
    return seed
