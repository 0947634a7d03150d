"""Additions: what rides on a method while it trains, and is absent when it answers.

An addition sees what passes through the backbone during a training step. It may put further rows
beside the features (BatchFormer) or add a loss of its own (dense relative localization). Recipes
name them beside the method, with their settings:

    additions:
      drloc: {weight: 0.5, pairs: 64}

Letters in shapes: N rows of features, D width.
"""

from __future__ import annotations

from abc import ABC
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from fsl.config import Section, tagged
from fsl.images import ImageSpec
from fsl.registry import Registry
from fsl.search_space import Uniform
from fsl.types import Progress, StepOutput


class AdditionConfig(Section):
    """Base of the settings of an addition."""

    name: str
    lr_multiplier: Annotated[float, Field(gt=0, le=100), Uniform(0.01, 1.0, log=True)] = 1.0
    """Learning rate of the addition's own weights, as a multiple of the stage's."""

    def check_epochs(self, epochs: int) -> None:
        """Raise ConfigError where schedules do not fit a run of so many epochs; default: never."""


class Addition(nn.Module, ABC):
    """Base class of additions. In evaluation mode it does nothing.

    Args:
        config: the settings.
        backbone: the network that is trained; hooks may be put on it, it must not be kept as a
            submodule.
        images: what its pixels are.

    Attributes:
        Config: the settings class.
        adds_rows: whether it may give the method other rows than one per sample.
        adds_rows_inside: whether it does so within the network already.
        scale: the method's own loss is multiplied by this.
    """

    Config: ClassVar[type[AdditionConfig]]
    adds_rows: ClassVar[bool] = False
    adds_rows_inside: bool = False
    scale: float = 1.0

    def __init__(self, config: Any, backbone: nn.Module, images: ImageSpec) -> None:
        super().__init__()
        del backbone, images
        self.config = config

    def begin(self) -> None:
        """Forget what was seen: a training pass begins. Default: nothing."""

    def mix(self, features: Tensor) -> Tensor:
        """Return rows for the method's loss, (N, D) -> (r*N, D), repetition-major.

        Row i of every repetition belongs to sample i. Default: the features as they are.
        """
        return features

    def extra(self) -> StepOutput | None:
        """Return a loss, already weighted, of what was seen in this pass. Default: none."""
        return None

    def before_step(self, progress: Progress) -> None:
        """Set what follows a schedule. Default: nothing."""
        del progress


ADDITIONS: Registry[type[Addition]] = Registry("addition", "fsl.additions.builtin", "fsl.additions")


AnyAdditionConfig: TypeAlias = tagged(ADDITIONS)  # type: ignore[valid-type]


def _named(value: Any) -> Any:
    """Give every section of a mapping the name it is listed under."""
    if not isinstance(value, dict):
        return value
    named: dict[str, Any] = {}
    for key, section in value.items():
        if isinstance(section, AdditionConfig):
            named[key] = section
        elif isinstance(section, dict | None):
            named[key] = {"name": key, **(section or {})}
        else:
            raise ValueError(f"{key}: expected a mapping of settings, got {section!r}")
    for key, section in named.items():
        own = section.name if isinstance(section, AdditionConfig) else section["name"]
        if own != key:
            raise ValueError(f"{key}: is the addition {own!r}; list it under that name")
    return named


AnyAdditions = Annotated[dict[str, AnyAdditionConfig], BeforeValidator(_named)]
"""The settings of any number of registered additions, each under its name."""
