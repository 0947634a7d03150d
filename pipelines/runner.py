"""Run a recipe's stages in order, each key once; continue what was interrupted.

Every stage has a directory `<run_dir>/<label>-<key>/`, and is found again by its key if its label
has changed. `config.json` is written there first and
`result.json` is renamed into place last: a directory without it is an interrupted attempt and is
handed back to the stage. Everything that can be found wrong is found before anything runs; what
only shards or features can show, as soon as they are made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from data_shards.location import Location
from fsl.config import Section
from fsl.errors import ConfigError, FewShotError, StageError
from pipelines import records
from pipelines.lock import run_lock
from pipelines.order import check_order
from pipelines.places import Places
from pipelines.provenance import write_provenance
from pipelines.stage import (
    STAGES,
    AnyStageConfig,
    PlannedStage,
    Stage,
    StageConfig,
    StageResult,
    check_inputs,
)
from pipelines.stage_lock import stage_lock
from pipelines.watch import TrainingStopped

DATA = ("shards", "features")
"""What stages give that shows whether the settings of later ones can be served."""
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


State = Literal["skipped", "waiting", "started", "continued", "done", "stopped", "failed"]


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
    state: State
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
    check_order(config.stages)
    places = Places(config.root)
    planned: dict[str, PlannedStage] = {}
    for label, stage_config in config.stages.items():
        seeded = _with_seed(stage_config, config.seed)
        stage = STAGES.get(seeded.kind)(seeded)
        stage.label = label
        inputs = {name: planned[name] for name in seeded.needs}
        check_inputs(label, stage, inputs)
        with _named(stage):
            stage.check(inputs)
            data = stage.data_digest()
        key = stage.key([item.key for item in inputs.values()], data)
        path = places.of(label, key)
        new = PlannedStage(label, stage, key, path, "run", inputs, data=data)
        planned[label] = _with_state(new)
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
    run = _Run(config, on_event)
    with nullcontext() if shared else run_lock(config.root):
        stages = list(planned.values())
        for number, stage in enumerate(stages):
            if shared:
                run.settle_alone(stage)
            else:
                run.settle(stage)
            if stage.gives in DATA and stage.there is None:
                run.check(stages[number + 1 :])
    return run.results


class _Run:
    """One pass through a recipe's stages.

    Attributes:
        results: of the stages settled so far, by label.
    """

    def __init__(self, config: PipelineConfig, on_event: Callable[[StageEvent], None]) -> None:
        self.config, self.on_event = config, on_event
        self.results: dict[str, StageResult] = {}
        self._settled: dict[str, PlannedStage] = {}

    def settle_alone(self, planned: PlannedStage) -> None:
        """Get the stage's result from this run or from another one that is at work on it."""
        if _with_state(planned).result is not None:  # what is done needs no lock
            self.settle(planned)
            return
        waiting = StageEvent(planned, "waiting")
        with stage_lock(self.config.root, planned.key, lambda: self.on_event(waiting)):
            # the other run may call the stage differently
            place = Places(self.config.root).of(planned.label, planned.key)
            self.settle(replace(planned, path=place))

    def settle(self, planned: PlannedStage) -> None:
        """Run the stage unless it is done."""
        inputs = {name: self._settled[name] for name in planned.config.needs}
        stage = _with_state(replace(planned, inputs=inputs))  # another run may have ended since
        self._settled[stage.label] = stage
        if stage.result is None:
            result = self.results[stage.label] = self._run(stage)
            self._settled[stage.label] = replace(stage, state="done", result=result)
        else:
            self.results[stage.label] = stage.result
            self.on_event(StageEvent(stage, "skipped", stage.result))

    def check(self, planned: Sequence[PlannedStage]) -> None:
        """Check stages once more, now that data are there which were not when they were planned.

        Raises:
            ConfigError: the data cannot serve one of them; what was made before stays.
        """
        known = dict(self._settled)
        for stage in planned:
            inputs = {name: known[name] for name in stage.config.needs}
            known[stage.label] = replace(stage, inputs=inputs)
            with _named(stage.stage):
                stage.stage.check(inputs)

    def _run(self, planned: PlannedStage) -> StageResult:
        """Run one stage in its directory and mark it done."""
        self._tell(planned, "continued" if planned.state == "continue" else "started")
        begun = time.time()
        inputs = {name: self.results[name] for name in planned.config.needs}
        seeds = {"pipeline": self.config.seed, "stage": _seed(planned.config)}
        try:
            planned.path.make_dir()
            records.write_config(planned)
            write_provenance(planned.path, seeds)
            metrics = planned.stage.run(inputs, planned.path)
            result = records.write_result(planned, metrics, begun)
        except TrainingStopped:
            self._tell(planned, "stopped", begun)
            raise
        except (FewShotError, OSError) as error:
            self._tell(planned, "failed", begun)
            raise StageError(
                f"stage {planned.label!r} ({planned.config.kind}) in {planned.path}: {error}"
                + records.remedy(error)
            ) from error
        except Exception as error:  # a bug of ours keeps its traceback, and says where it happened
            self._tell(planned, "failed", begun)
            error.add_note(f"in stage {planned.label!r}, directory {planned.path}")
            raise
        self._tell(planned, "done", begun, result)
        return result

    def _tell(
        self,
        stage: PlannedStage,
        state: State,
        begun: float | None = None,
        result: StageResult | None = None,
    ) -> None:
        seconds = 0.0 if begun is None else time.time() - begun
        self.on_event(StageEvent(stage, state, result, seconds))


@contextmanager
def _named(stage: Stage[Any]) -> Iterator[None]:
    """Say in errors which stage of the recipe has them."""
    try:
        yield
    except FewShotError as error:
        raise ConfigError(f"stages.{stage.label} ({stage.config.kind}): {error}") from error


def _with_state(planned: PlannedStage) -> PlannedStage:
    """Return the stage with what is in its directory."""
    result, finished = records.read_result(planned)
    if result is not None:
        return replace(planned, state="done", result=result, finished=finished)
    return replace(planned, state="continue" if records.has_attempt(planned) else "run")


def _with_seed(config: StageConfig, seed: int) -> StageConfig:
    """Return the settings with the recipe's seed, where they have a seed and leave it open."""
    if "seed" in type(config).model_fields and _seed(config) is None:
        return config.model_copy(update={"seed": seed})
    return config


def _seed(config: Any) -> int | None:
    seed: int | None = getattr(config, "seed", None)
    return seed
