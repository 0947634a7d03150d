"""Methods out of settings: an untrained one, or that of a train stage's checkpoint."""

from __future__ import annotations

from typing import Any, NamedTuple

from data_shards.location import Location
from fsl.backbones import build_backbone
from fsl.backbones.features import FeaturesConfig
from fsl.images import ImageSpec, ShownImages
from fsl.method import Method, build_method
from pipelines.checkpoint import MODEL, Which, open_checkpoint, settings_of
from pipelines.train_config import TrainConfig


class LoadedModel(NamedTuple):
    """A trained method, ready for evaluation or export."""

    method: Method[Any]
    images: ImageSpec
    config: TrainConfig
    digest: str
    """sha256 of the weights file."""

    @property
    def on_vectors(self) -> bool:
        """Whether it learnt from a feature table, so that it can answer no image."""
        return isinstance(self.config.backbone, FeaturesConfig)


def fresh_method(config: TrainConfig, pretrained: bool = True) -> Method[Any]:
    """Return the untrained method; without `pretrained` no weights are fetched."""
    assert config.backbone is not None
    assert config.images is not None
    backbone = config.backbone
    if not pretrained and "pretrained" in type(backbone).model_fields:
        backbone = backbone.model_copy(update={"pretrained": None})
    method = build_method(config.method, build_backbone(backbone, config.images))
    method.attach(config.additions, config.images)
    return method


def load_model(
    stage_path: Location, which: Which = "best", shown: ShownImages | None = None
) -> LoadedModel:
    """Return the trained method of a train stage, on the CPU, in evaluation mode.

    Args:
        stage_path: directory of the train stage.
        which: its best or its last checkpoint.
        shown: size of the images that it is asked about; None: as when it was validated.
    """
    with open_checkpoint(stage_path, which) as checkpoint:
        config = settings_of(checkpoint.info, checkpoint.name)
        method = fresh_method(config, pretrained=False)
        checkpoint.restore_model(method)
        digest = checkpoint.info.files[MODEL]["sha256"]
    assert config.images is not None
    images = config.images if shown is None else shown.put_on(config.images)
    return LoadedModel(method.eval(), images, config, digest)
