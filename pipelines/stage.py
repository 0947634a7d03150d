"""A stage: one step of a recipe that turns its inputs' results into files of its own.

A stage is a class with nested settings, registered under the `kind` that recipes write. What it
makes is identified by a key: kind, version, settings, the content of outside data and the keys of
its inputs. Equal keys mean equal results, so the runner runs each key once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from pydantic import Field

from data_shards.location import Location
from fsl.config import RuntimeOnly, Section, digest, fingerprint, tagged
from fsl.errors import StageError
from fsl.registry import Registry


class StageConfig(Section):
    """Base of the settings of a stage. Derived classes narrow `kind` to a Literal."""

    kind: str
    """Which stage this is."""
    needs: Annotated[list[str], Field(default_factory=list), RuntimeOnly]
    """Labels of earlier stages whose results this one uses. Their keys enter this stage's key,
    their labels do not: renaming a stage changes no result."""


class Count(NamedTuple):
    """How many inputs of one sort a stage takes."""

    least: int
    most: int | None

    def __str__(self) -> str:
        """Return it in words, as the error message says it."""
        words = {(1, 1): "exactly one", (0, 1): "at most one", (1, None): "at least one"}
        return words.get((self.least, self.most), f"{self.least} to {self.most or 'any number'}")


ONE, OPTIONAL, SOME, ANY = Count(1, 1), Count(0, 1), Count(1, None), Count(0, None)


@dataclass(frozen=True)
class StageResult:
    """What a finished stage left behind.

    Attributes:
        label: its name in the recipe.
        kind: which stage it was.
        key: identity of the result (64 hex digits).
        path: where its files are, see `Stage.place`.
        metrics: the numbers it returned.
    """

    label: str
    kind: str
    key: str
    path: Location
    metrics: Mapping[str, float]

    @property
    def gives(self) -> str:
        """What the stage made: "shards", "model", "accuracies", "report" or a plug-in's word."""
        return STAGES.get(self.kind).gives


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a recipe before it runs: what `Stage.check` sees of its inputs.

    Attributes:
        label: its name in the recipe.
        stage: the stage, with its settings.
        key: identity of the result it has or will have.
        path: the directory of that result.
        state: "done", "continue" (an interrupted attempt is there) or "run".
        inputs: the stages it needs, by label, in the recipe's order.
        result: what it left behind, when done.
        finished: when it was done, ISO 8601, or "".
        data: digest of the outside data it reads, see `Stage.data_digest`.
    """

    label: str
    stage: Stage[Any]
    key: str
    path: Location
    state: Literal["done", "continue", "run"]
    inputs: Mapping[str, PlannedStage] = field(default_factory=dict)
    result: StageResult | None = None
    finished: str = ""
    data: str = ""

    @property
    def config(self) -> Any:
        """The stage's settings."""
        return self.stage.config

    @property
    def gives(self) -> str:
        """What the stage makes."""
        return self.stage.gives

    @property
    def there(self) -> Location | None:
        """Where that can be read already, before the recipe runs."""
        return self.stage.elsewhere() if self.result is None else self.result.path


C = TypeVar("C", bound=StageConfig)


class Stage(ABC, Generic[C]):
    """Base class of stages.

    Attributes:
        Config: the settings class.
        version: raise it when equal settings begin to give another result.
        gives: one word for what it makes; other stages' `takes` refer to it.
        takes: sort of input -> how many of them; "*" takes inputs of every other sort.
        label: its name in the recipe; empty outside of one. Only to be shown: it is not in the key.
    """

    Config: ClassVar[type[StageConfig]]
    version: ClassVar[int] = 1
    gives: ClassVar[str]
    takes: ClassVar[Mapping[str, Count]] = {}
    label: str = ""

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Do the work and return the numbers to show.

        Args:
            inputs: results of the needed stages by label, in the order of `needs`.
            out: this stage's directory. It may hold what an interrupted attempt left: continue.
        """

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Raise FewShotError for what can be found wrong before anything runs."""
        del inputs

    def place(self, out: Location) -> Location:
        """Return where the result's files are: `out`, unless the stage only points elsewhere."""
        return out

    def elsewhere(self) -> Location | None:
        """Return where the result is before the stage has run, if it only points there."""
        return None

    def keyed(self) -> StageConfig:
        """Return the settings as they enter the key: without places whose content enters it."""
        return self.config

    def data_digest(self) -> str:
        """Return a digest of the outside data this stage reads (not of its inputs)."""
        return ""

    def key(self, input_keys: Sequence[str], data: str | None = None) -> str:
        """Return the identity of the result (64 hex digits).

        Args:
            input_keys: of the needed stages.
            data: what `data_digest` returns, if that was asked already.
        """
        return digest(
            {
                "kind": self.config.kind,
                "version": self.version,
                "settings": fingerprint(self.keyed()),
                "data": self.data_digest() if data is None else data,
                "inputs": list(input_keys),
            }
        )


STAGES: Registry[type[Stage[Any]]] = Registry(
    "stage", "pipelines.stages", "fewshot.stages", tag="kind"
)
AnyStageConfig = tagged(STAGES)
"""The settings of any registered stage, chosen by `kind`."""

R = TypeVar("R", StageResult, PlannedStage)


def inputs_giving(inputs: Mapping[str, R], gives: str) -> list[R]:
    """Return the inputs of one sort ("shards", "model", ...), in the order of `needs`."""
    return [item for item in inputs.values() if item.gives == gives]


def check_inputs(label: str, stage: Stage[Any], inputs: Mapping[str, PlannedStage]) -> None:
    """Raise StageError when a stage's `needs` name the wrong sorts or numbers of stages."""
    where = f"stages.{label}.needs: {stage.config.kind} stage"
    for item in inputs.values():
        if item.gives not in stage.takes and "*" not in stage.takes:
            usable = ", ".join(stage.takes) or "nothing"
            raise StageError(
                f"{where} cannot use {item.label!r}, a {item.config.kind} stage that gives "
                f"{item.gives}; it takes: {usable}"
            )
    for gives, count in stage.takes.items():
        found = [item.label for item in inputs.values() if item.gives == gives]
        if len(found) < count.least or (count.most is not None and len(found) > count.most):
            raise StageError(
                f"{where} needs {count} stage that gives {gives} "
                f"(kind {' or '.join(_kinds_giving(gives))}), got "
                f"{', '.join(found) or 'none'}; list the label of such a stage in needs"
            )


def _kinds_giving(gives: str) -> list[str]:
    return [kind for kind in STAGES.names() if STAGES.get(kind).gives == gives] or ["unknown"]
