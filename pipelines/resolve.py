"""Settings of a train stage with everything filled in that the recipe leaves open.

Seed, images, backbone, and what only the data can tell: the number of training classes, the length
of feature vectors.
"""

from __future__ import annotations

from typing import Any

from data_shards.features import FeatureSet
from fsl.backbones.features import FeaturesConfig
from fsl.errors import StageError
from fsl.images import ImageSpec
from fsl.methods.episodic import EpisodicConfig
from pipelines.train_config import TrainConfig
from pipelines.training_data import Data, training_pools


def resolved(
    config: TrainConfig, earlier: TrainConfig | None, features: bool = False
) -> TrainConfig:
    """Return the settings with seed, images and backbone.

    Args:
        config: as the recipe has it.
        earlier: settings of the needed train stage, images and backbone filled in.
        features: whether the stage trains on feature vectors.
    """
    update: dict[str, Any] = {"seed": config.seed or 0}
    if features:
        return config.model_copy(update=update | _for_vectors(config))
    if config.images is None:
        update["images"] = earlier.images if earlier else ImageSpec()
    if config.backbone is None:
        if earlier is None:
            raise StageError(
                "backbone: missing, and needs has no train stage to take it from; name one, e.g. "
                "backbone: {name: vit, size: small}"
            )
        update["backbone"] = earlier.backbone
    elif isinstance(config.backbone, FeaturesConfig):
        raise StageError(
            "backbone: features reads a feature table; list an extract_features or "
            "import_features stage in needs instead of shards, or name a network"
        )
    return config.model_copy(update=update)


def _for_vectors(config: TrainConfig) -> dict[str, Any]:
    """Return what a stage on feature vectors has in place of images and network."""
    if config.episodes is None:
        raise StageError(
            f"method: {config.method.name!r} learns from images, and the stage trains on feature "
            "vectors; list the stage that gives the shards in needs"
        )
    if config.images is not None:
        raise StageError("images: the stage trains on feature vectors; remove the section")
    if not isinstance(config.backbone, FeaturesConfig | None):
        raise StageError(
            f"backbone: {config.backbone.name!r} wants images, and the stage trains on feature "
            "vectors; remove it"
        )
    if isinstance(config.method, EpisodicConfig):
        _changes_no_image(config.method)
    return {"images": ImageSpec(), "backbone": config.backbone or FeaturesConfig()}


def _changes_no_image(method: EpisodicConfig) -> None:
    """Refuse what an episodic method does to images; there are none in a feature table."""
    if method.simclr_fraction:
        raise StageError(
            f"method.simclr_fraction: {method.simclr_fraction:g}, and the stage trains on feature "
            "vectors, of which there are no other views; set it to 0"
        )
    if method.view is not None:
        raise StageError(
            "method.view: changes images, and the stage trains on feature vectors; remove it"
        )


def filled_in(config: TrainConfig, data: Data) -> TrainConfig:
    """Return resolved settings with the numbers that the data have."""
    pools = training_pools(config, data)
    classes: dict[str, int] = {}
    for pool in pools:
        classes |= dict(zip(pool.class_names, pool.class_rows().counts.tolist(), strict=True))
    update: dict[str, Any] = {"method": config.method.knowing(classes)}
    if isinstance(config.backbone, FeaturesConfig) and isinstance(data, FeatureSet):
        update["backbone"] = _of_length(config.backbone, data)
    return config.model_copy(update=update)


def _of_length(backbone: FeaturesConfig, data: FeatureSet) -> FeaturesConfig:
    if len(data.widths) > 1:
        raise StageError(f"{data.root}: holds several vectors per image; train on one of them")
    (length,) = data.widths.values()
    if backbone.size not in (None, length):
        raise StageError(
            f"backbone.size: {backbone.size}, but the vectors of {data.root} have length {length}; "
            "remove it"
        )
    return backbone.model_copy(update={"size": length})
