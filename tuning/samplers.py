"""Who proposes settings. A sampler is made anew for each trial and remembers nothing.

What it knows it reads from the study, and its random numbers follow from the study's seed and the
trial's number: a sweep that was killed proposes what it would have proposed.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from fsl.config import Section, tagged
from fsl.registry import Registry
from tuning.remembered import BEST, ShortMemory

if TYPE_CHECKING:
    from tuning.config import StudyConfig

INFEASIBLE = "infeasible"
"""Attribute of a trial, [1.0] when its settings cannot be trained."""
CONSTRAINT = f"constraints:{INFEASIBLE}"
"""Where Optuna looks for it; what `Trial.set_constraint` writes."""


class SamplerConfig(Section):
    """Base of the settings of a sampler."""

    name: str
    """Which sampler this is."""
    conditional: ClassVar[bool] = False
    """Whether it learns settings that only some trials have, as of several recipes."""
    learns: ClassVar[bool] = False
    """Whether trials of other studies tell it anything."""


class SamplerMaker(ABC):
    """Base of those that make a sampler from its settings."""

    Config: ClassVar[type[SamplerConfig]]

    @staticmethod
    @abstractmethod
    def make(config: Any, seed: int, study_seed: int) -> optuna.samplers.BaseSampler:
        """Return the sampler.

        Args:
            config: its settings.
            seed: of this trial's random numbers.
            study_seed: the same for all trials of the study.
        """


SAMPLERS: Registry[type[SamplerMaker]] = Registry("sampler", "tuning.samplers", "fewshot.samplers")
AnySamplerConfig: Any = tagged(SAMPLERS)
"""The settings of any registered sampler, chosen by `name`."""

Startup = Annotated[int, Field(ge=1, le=BEST)]


class TpeConfig(SamplerConfig):
    """Tree-structured Parzen estimator over all settings together (Watanabe, 2023)."""

    learns: ClassVar[bool] = True
    name: Literal["tpe"] = "tpe"
    conditional: ClassVar[bool] = True
    startup_trials: Startup = 10
    """Trials at random before it begins."""
    candidates: Annotated[int, Field(ge=1, le=1000)] = 24
    """Settings drawn for each trial, of which the most promising is taken."""


class RandomConfig(SamplerConfig):
    """Independent random settings."""

    name: Literal["random"] = "random"
    conditional: ClassVar[bool] = True


class QmcConfig(SamplerConfig):
    """A sequence that fills the space more evenly than random points do."""

    name: Literal["qmc"] = "qmc"
    sequence: Literal["sobol", "halton"] = "sobol"
    """Which sequence; Sobol's is best for 2, 4, 8, 16, ... trials."""


class GpConfig(SamplerConfig):
    """Gaussian process; for few settings. It sees the best and the latest of many trials."""

    learns: ClassVar[bool] = True
    name: Literal["gp"] = "gp"
    startup_trials: Startup = 10
    """Trials at random before it begins."""


class Nsga2Config(SamplerConfig):
    """Genetic search, for two or three goals (Deb et al., 2002)."""

    name: Literal["nsga2"] = "nsga2"
    population: Annotated[int, Field(ge=2, le=1000)] = 20
    """Complete trials of a generation; the first one is random."""


class FeasibleTpe(ShortMemory, optuna.samplers.TPESampler):
    """TPE that learns which settings cannot be trained: they are worse than all others."""

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Write the trial's attribute where Optuna looks for it."""
        super().after_trial(study, trial, state, values)
        if any(value > 0 for value in trial.user_attrs.get(INFEASIBLE, ())):
            study._storage.set_trial_system_attr(trial._trial_id, CONSTRAINT, 1.0)


@SAMPLERS.register("tpe")
class Tpe(SamplerMaker):
    """Makes TPE."""

    Config = TpeConfig

    @staticmethod
    def make(config: TpeConfig, seed: int, study_seed: int) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        del study_seed
        return FeasibleTpe(
            n_startup_trials=config.startup_trials,
            n_ei_candidates=config.candidates,
            multivariate=True,
            group=True,
            constant_liar=True,
            seed=seed,
        )


@SAMPLERS.register("random")
class Random(SamplerMaker):
    """Makes random search."""

    Config = RandomConfig

    @staticmethod
    def make(config: RandomConfig, seed: int, study_seed: int) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        del config, study_seed
        return optuna.samplers.RandomSampler(seed=seed)


@SAMPLERS.register("qmc")
class Qmc(SamplerMaker):
    """Makes quasi-random search; the position in the sequence is in the study."""

    Config = QmcConfig

    @staticmethod
    def make(config: QmcConfig, seed: int, study_seed: int) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        return optuna.samplers.QMCSampler(
            qmc_type=config.sequence,
            scramble=True,
            seed=study_seed,  # one sequence for all trials
            independent_sampler=optuna.samplers.RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )


class ShortGp(ShortMemory, optuna.samplers.GPSampler):
    """Gaussian-process search over the remembered trials."""


@SAMPLERS.register("gp")
class Gp(SamplerMaker):
    """Makes Gaussian-process search."""

    Config = GpConfig

    @staticmethod
    def make(config: GpConfig, seed: int, study_seed: int) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        del study_seed
        return ShortGp(
            seed=seed, n_startup_trials=config.startup_trials, warn_independent_sampling=False
        )


@SAMPLERS.register("nsga2")
class Nsga2(SamplerMaker):
    """Makes NSGA-II; generations are in the study."""

    Config = Nsga2Config

    @staticmethod
    def make(config: Nsga2Config, seed: int, study_seed: int) -> optuna.samplers.BaseSampler:
        """Return the sampler."""
        del study_seed
        return optuna.samplers.NSGAIISampler(population_size=config.population, seed=seed)


def build_sampler(config: StudyConfig, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that proposes the settings of trial `number`."""
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    if config.population is not None:
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():  # "group" is experimental, and has been since 2020
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS.get(config.sampler.name).make(config.sampler, seed, config.seed)
