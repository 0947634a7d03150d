"""Settings of how a study is run: they may change from one call to the next.

What they change is how far the search goes and what is made of it, not what it finds.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fsl.config import Section


class BudgetConfig(Section):
    """When no further trial is begun: as soon as one of these is used up."""

    trials: Annotated[int, Field(ge=1)] = 20
    """Trials altogether, over all calls; those taken from earlier studies do not count."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Epochs of the judged stages, over all trials."""
    device_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours times GPUs held (or CPUs, where there are none), over all trials."""


class TrialsConfig(Section):
    """How trials run. Does not change what they find."""

    launcher: Literal["local", "ray"] = "local"
    """`local`: a trial is one process. `ray`: each train stage is a job of Ray Train, with the
    workers of the recipe's `cluster` section."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """CPUs of a trial's process, and its torch threads."""
    gpus: Annotated[float, Field(ge=0, le=1)] = 0.0
    """GPU of a trial's process; a fraction lets trials share one, whose memory is not divided."""
    concurrent: Annotated[int, Field(ge=1)] | None = None
    """Most trials at once; null: as many as fit."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often a trial is begun again after the death of its process."""
    checkpoint_gb: Annotated[float, Field(gt=0)] | None = None
    """Gigabytes (10^9 bytes) for the checkpoints of all trials; those of the worst go first. Null:
    no limit."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.launcher == "ray":
            for name in ("cpus", "gpus"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name}: with launcher: ray the recipe's cluster sections say what a "
                        "trial takes; remove it"
                    )
        return self


class FinalistsConfig(Section):
    """The best trials once more, on tasks that the search has not seen."""

    count: Annotated[int, Field(ge=0, le=50)] = 3
    """How many trials; 0: no such comparison."""
    split: str = "val"
    """Split whose classes are recognised."""
    ways: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = Field(default=[5])
    """Classes per task; each is evaluated."""
    shots: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(default=[1])
    """Labelled images per class; each is evaluated."""
    queries: Annotated[int, Field(ge=1)] = 15
    """Images per class to be recognised."""
    tasks: Annotated[int, Field(ge=2, le=1_000_000)] = 2000
    """Tasks per number of ways and shots."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Seed of the tasks; another one than the study's."""


class MlflowConfig(Section):
    """Trials as runs of MLflow."""

    tracking_uri: str | None = None
    """Server, or a file such as sqlite:///mlflow.db; null: as MLFLOW_TRACKING_URI says."""
    experiment: str | None = None
    """Name of the experiment; null: the study's."""


class WandbConfig(Section):
    """Trials as runs of Weights & Biases."""

    project: Annotated[str, Field(min_length=1)]
    """Project there."""
    group: str | None = None
    """Group of the runs; null: the study's name."""
    mode: Literal["online", "offline"] = "online"
    """`offline` keeps the runs on disk until `wandb sync`."""


class LoggersConfig(Section):
    """Services that get each trial's numbers besides the TensorBoard files."""

    mlflow: MlflowConfig | None = None
    """MLflow (pip install mlflow)."""
    wandb: WandbConfig | None = None
    """Weights & Biases (pip install wandb)."""
