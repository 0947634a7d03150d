"""Two toy stages, so that the engine is tested without data or training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from data_shards.location import Location
from fsl.config import build
from fsl.errors import ConfigError, FewShotError
from pipelines.runner import PipelineConfig
from pipelines.stage import (
    ONE,
    OPTIONAL,
    STAGES,
    PlannedStage,
    Stage,
    StageConfig,
    StageResult,
    inputs_giving,
)

RUNS: list[str] = []
"""Which toy stages ran, in order."""


class NumberConfig(StageConfig):
    kind: Literal["toy_number"] = "toy_number"
    value: float = 1.0
    outside: str = ""
    seed: int | None = None


class Number(Stage[NumberConfig]):
    Config = NumberConfig
    gives = "number"

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        RUNS.append("number")
        (out / "value.txt").write_text(str(self.config.value))
        return {"value": self.config.value}

    def data_digest(self) -> str:
        return Path(self.config.outside).read_text() if self.config.outside else ""


class DoubleConfig(StageConfig):
    kind: Literal["toy_double"] = "toy_double"
    add: float = 0.0
    fail: Literal["", "mistake", "bug", "disk", "interrupt"] = ""
    seed: int | None = None


class Double(Stage[DoubleConfig]):
    Config = DoubleConfig
    gives = "double"
    takes: ClassVar = {"number": ONE, "double": OPTIONAL}

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        RUNS.append("double")
        (number,) = inputs_giving(inputs, "number")
        started = out / "started.txt"
        if started.exists():
            return {"value": 2 * number.metrics["value"] + self.config.add, "continued": 1.0}
        started.write_text("yes")
        self._fail(out)
        return {"value": 2 * number.metrics["value"] + self.config.add}

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        (number,) = inputs_giving(inputs, "number")
        if number.config.value < 0:
            raise ConfigError(f"value {number.config.value} of {number.label!r} must be positive")

    def _fail(self, out: Location) -> None:
        if self.config.fail == "mistake":
            raise FewShotError("the planted mistake")
        if self.config.fail == "bug":
            raise ZeroDivisionError("the planted bug")
        if self.config.fail == "disk":
            raise OSError(28, "No space left on device")
        if self.config.fail == "interrupt":
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _toy_stages() -> Iterator[None]:
    STAGES.register("toy_number")(Number)
    STAGES.register("toy_double")(Double)
    RUNS.clear()
    yield
    for name in ("toy_number", "toy_double"):
        STAGES._items.pop(name, None)


@pytest.fixture
def runs() -> list[str]:
    return RUNS


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Return a function (overrides) -> pipeline of two numbers doubled."""

    def make(**values: Any) -> PipelineConfig:
        tree = {
            "run_dir": str(tmp_path / "run"),
            "stages": {
                "first": {"kind": "toy_number"},
                "second": {"kind": "toy_double", "needs": ["first"]},
            },
        }
        dotted = {key.replace("__", "."): value for key, value in values.items()}
        return build(PipelineConfig, tree, dotted)

    return make
