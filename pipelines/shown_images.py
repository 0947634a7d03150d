"""Images of another size than a network was validated on: which networks take them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import torch

from fsl.errors import FewShotError, StageError
from fsl.images import ShownImages
from pipelines.ancestry import planned_models
from pipelines.hollow import hollow_method
from pipelines.stage import PlannedStage, inputs_giving
from pipelines.train_config import TrainConfig


def check_shown(shown: ShownImages | None, inputs: Mapping[str, PlannedStage]) -> None:
    """Refuse a size of images that a needed model cannot take, as far as its settings tell.

    Raises:
        StageError: names the model and the rule; also where feature vectors are asked about.
    """
    if shown is None:
        return
    for table in inputs_giving(inputs, "features"):
        raise StageError(
            f"images: {table.label!r} gives feature vectors, which have no size; set images in "
            "the extract_features stage that makes them"
        )
    for label, config in planned_models(inputs):
        try:
            _show(config, shown)
        except FewShotError as error:
            raise StageError(
                f"images.size: {shown.size}, and {label!r} cannot be shown such images: {error}"
            ) from None


def _show(config: TrainConfig, shown: ShownImages) -> None:
    """Pass an image without pixels through a network without weights."""
    assert config.images is not None
    images = shown.put_on(config.images)
    pixels = torch.empty((1, images.channels, images.size, images.size), device="meta")
    with suppress(ValueError, RuntimeError, TypeError), torch.no_grad():  # needs values to run
        hollow_method(config).eval().embed(pixels)
