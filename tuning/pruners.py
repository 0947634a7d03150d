"""Who stops trials early. What they know is in the study, so nothing is lost with a process.

A step is a percent of the judged stage's training: trials of different length can be compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import optuna
from pydantic import Field

from fsl.config import Section, tagged
from fsl.registry import Registry

if TYPE_CHECKING:
    from tuning.config import StudyConfig

END = 100
"""Percent of a whole training."""


class PrunerConfig(Section):
    """Base of the settings of a pruner."""

    name: str
    """Which pruner this is."""


class PrunerMaker(ABC):
    """Base of those that make a pruner from its settings."""

    Config: ClassVar[type[PrunerConfig]]

    @staticmethod
    @abstractmethod
    def make(config: Any) -> optuna.pruners.BasePruner:
        """Return the pruner."""


PRUNERS: Registry[type[PrunerMaker]] = Registry("pruner", "tuning.pruners", "fewshot.pruners")
AnyPrunerConfig: Any = tagged(PRUNERS)
"""The settings of any registered pruner, chosen by `name`."""

MinPercent = Annotated[int, Field(ge=1, lt=END)]
Factor = Annotated[int, Field(ge=2, le=10)]


class NoPrunerConfig(PrunerConfig):
    """Every trial is trained to its end."""

    name: Literal["none"] = "none"


class AshaConfig(PrunerConfig):
    """Asynchronous successive halving (Li et al., MLSys 2020)."""

    name: Literal["asha"] = "asha"
    min_percent: MinPercent = 25
    """A trial is judged first when so much of its training is done; then each time that `factor`
    times as much is done."""
    factor: Factor = 3
    """One in `factor` of the trials goes on."""


class HyperbandConfig(PrunerConfig):
    """Successive halving from several starts at once (Li et al., JMLR 2018)."""

    name: Literal["hyperband"] = "hyperband"
    min_percent: MinPercent = 10
    """A trial of the quickest bracket is judged first when so much of its training is done."""
    factor: Factor = 3
    """One in `factor` of a bracket's trials goes on."""


class MedianConfig(PrunerConfig):
    """Stops what is worse than the median of earlier trials at the same percent."""

    name: Literal["median"] = "median"
    min_percent: MinPercent = 25
    """No trial is judged before."""
    startup_trials: Annotated[int, Field(ge=1)] = 5
    """Complete trials before any is judged."""


@PRUNERS.register("none")
class NoPruner(PrunerMaker):
    """Makes a pruner that never stops a trial."""

    Config = NoPrunerConfig

    @staticmethod
    def make(config: NoPrunerConfig) -> optuna.pruners.BasePruner:
        """Return the pruner."""
        del config
        return optuna.pruners.NopPruner()


@PRUNERS.register("asha")
class Asha(PrunerMaker):
    """Makes ASHA."""

    Config = AshaConfig

    @staticmethod
    def make(config: AshaConfig) -> optuna.pruners.BasePruner:
        """Return the pruner."""
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=config.min_percent, reduction_factor=config.factor
        )


@PRUNERS.register("hyperband")
class Hyperband(PrunerMaker):
    """Makes HyperBand."""

    Config = HyperbandConfig

    @staticmethod
    def make(config: HyperbandConfig) -> optuna.pruners.BasePruner:
        """Return the pruner."""
        return optuna.pruners.HyperbandPruner(
            min_resource=config.min_percent, max_resource=END, reduction_factor=config.factor
        )


@PRUNERS.register("median")
class Median(PrunerMaker):
    """Makes the median rule."""

    Config = MedianConfig

    @staticmethod
    def make(config: MedianConfig) -> optuna.pruners.BasePruner:
        """Return the pruner."""
        return optuna.pruners.MedianPruner(
            n_startup_trials=config.startup_trials, n_warmup_steps=config.min_percent
        )


def build_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """Return the study's pruner; it has no state of its own."""
    if config.population is not None:
        return optuna.pruners.NopPruner()
    return PRUNERS.get(config.pruner.name).make(config.pruner)
