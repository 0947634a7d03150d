"""Refuses choices with which a method cannot even be built, before any trial finds out.

Whether settings contradict each other is known from the settings; whether a method can use a
network (attention of one without any) only when both are made. They are made without memory.
"""

from __future__ import annotations

from typing import Any

from fsl.backbones.features import FeaturesConfig
from fsl.errors import ConfigError, FewShotError
from fsl.images import ImageSpec
from fsl.search_space import Choice
from pipelines.hollow import hollow_method, with_stand_ins
from pipelines.train_config import TrainConfig
from tuning.candidate import Branch
from tuning.ranges import ends

SECTIONS = ("method", "additions", "backbone")


def check_buildable(branch: Branch) -> None:
    """Try every choice of the judged stage's method and network.

    Raises:
        ConfigError: one of them is impossible with the rest of the recipe.
    """
    prefix = f"stages.{branch.objective}."
    if _fault(branch, {}) is not None:  # not to be judged without the data
        return
    for dimension in branch.dimensions:
        section = dimension.key.removeprefix(prefix).partition(".")[0]
        if not isinstance(dimension.domain, Choice) or section not in SECTIONS:
            continue
        for option in ends(dimension.domain):
            fault = _fault(branch, {dimension.key: option})
            if fault is not None:
                raise ConfigError(
                    f"search: {dimension.name}: {option!r}, one of its choices, is impossible: "
                    f"{fault}; name the choices yourself"
                )


def _fault(branch: Branch, values: dict[str, Any]) -> Exception | None:
    try:
        recipe = branch.recipe(values)
    except ConfigError:  # impossible with the recipe's other settings, perhaps not with others
        return None
    stages = [stage for stage in recipe.stages.values() if isinstance(stage, TrainConfig)]
    try:
        hollow_method(with_network(branch.judged(recipe), stages))
    except (FewShotError, ValueError, RuntimeError, TypeError) as error:
        return error
    return None


def with_network(judged: TrainConfig, stages: list[TrainConfig]) -> TrainConfig:
    """Return settings with images and network, taken from earlier stages where they are open."""
    images = next((s.images for s in reversed(stages) if s.images is not None), ImageSpec())
    backbone = next((s.backbone for s in reversed(stages) if s.backbone is not None), None)
    update = {
        "images": judged.images or images,
        "backbone": judged.backbone or backbone or FeaturesConfig(),
    }
    return with_stand_ins(judged.model_copy(update=update))
