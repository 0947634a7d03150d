"""Settings of one recipe of a study: what it is, what differs in it, what is searched."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, field_validator

from fsl.config import Section
from tuning.ranges import RangeConfig


def _range(value: Any) -> Literal["own"] | RangeConfig:
    """Return what stands for a searched setting; a union would report each mistake twice."""
    if isinstance(value, RangeConfig):
        return value
    if value == "own":
        return "own"
    if not isinstance(value, dict):
        raise ValueError("a range is own, {low: ..., high: ...} or {choices: [...]}")
    return RangeConfig.model_validate(value)


def _dumped(value: Literal["own"] | RangeConfig) -> str | dict[str, Any]:
    return value if value == "own" else value.model_dump(exclude_defaults=True)


def _recipe(value: Any) -> str | dict[str, Any]:
    if isinstance(value, dict) or (isinstance(value, str) and value.strip()):
        return value
    raise ValueError("name the recipe's file, or write its sections here")


Range: TypeAlias = Annotated[
    Literal["own"] | RangeConfig, PlainValidator(_range), PlainSerializer(_dumped)
]
Search: TypeAlias = dict[str, Range]
Recipe: TypeAlias = Annotated[str | dict[str, Any], PlainValidator(_recipe)]


class BranchConfig(Section):
    """One recipe of a study."""

    recipe: Recipe
    """Path of the recipe, relative to the study file, or the recipe itself."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings that differ from the recipe in all trials: `stages.distill.optim.epochs: 5`. A
    section that is searched leaves them out."""
    stage: str | None = None
    """Label of the train stage that is judged; null: the last one."""
    search: Search = Field(default={"method": "own"})
    """What is searched: a setting of the judged stage (`optim.lr`), a section of it (`method`: all
    its settings that have a range), or a setting of a stage before it
    (`stages.pretrain.optim.lr`). `own`: the range that the setting declares itself."""
    points: list[dict[str, Any]] = Field(default_factory=list)
    """Settings to try first, e.g. published ones, with the keys of what is searched. What a point
    leaves out is sampled."""

    @field_validator("search")
    @classmethod
    def _something(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            raise ValueError("nothing is searched; name settings, or leave it out for method: own")
        return value

    @field_validator("set")
    @classmethod
    def _of_stages(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if not key.startswith("stages.") or key.count(".") < 2:
                raise ValueError(
                    f"{key!r}: write a setting of a stage as stages.LABEL.section.key; seed and "
                    "study_dir belong to the study"
                )
        return value

    def check_set(self, launcher: str) -> None:
        """Refuse values without effect in a trial; raises ValueError."""
        for name in self.set or {}:
            _, _, section, *inside = [*name.split("."), "", ""]
            if section == "cluster" and inside[0] and launcher == "local":
                raise ValueError(
                    f"set: {name} has no effect with trials.launcher: local, where a trial is one "
                    "process; set trials.cpus and trials.gpus, or trials.launcher: ray"
                )
            if section == "checkpoint":
                raise ValueError(
                    f"set: {name} has no effect: a trial keeps its best and its last checkpoint; "
                    "see trials.checkpoint_gb"
                )
