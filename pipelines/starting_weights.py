"""The file of weights that a network starts from: its content makes the result, not its place.

Names of timm's models are left alone: they stand for weights that do not change.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fsl.backbones.pretrained import names_file
from fsl.errors import ConfigError
from pipelines.train_config import TrainConfig


def weights_file(config: TrainConfig) -> Path | None:
    """Return the file that `backbone.pretrained` names, if it names one."""
    source = getattr(config.backbone, "pretrained", None)
    return Path(source) if isinstance(source, str) and names_file(source) else None


def weights_digest(config: TrainConfig) -> str:
    """Return the sha256 of that file; nothing where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = weights_file(config)
    if path is None:
        return ""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(
            f"backbone.pretrained: {str(path)!r} cannot be read: {error.strerror}; give the path "
            "of a file of weights or the name of a timm model, or null for random weights"
        ) from None


def without_file(config: TrainConfig) -> TrainConfig:
    """Return the settings without the place of that file."""
    if config.backbone is None or weights_file(config) is None:
        return config
    backbone = config.backbone.model_copy(update={"pretrained": None})
    return config.model_copy(update={"backbone": backbone})
