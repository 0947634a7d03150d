"""What a train stage refuses before it starts: settings that contradict each other or the data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress

from torch import Tensor

from fsl.backbones.features import FeaturesConfig
from fsl.errors import ConfigError, FewShotError, StageError
from fsl.method import METHODS
from pipelines.addition_weights import with_own_additions
from pipelines.batch_plan import BatchPlan
from pipelines.hollow import SOME_CLASSES, hollow_method
from pipelines.optim import build_optimizer
from pipelines.train_config import TrainConfig, ValidationConfig
from pipelines.training_data import Data, build_plan, set_aside_images, training_pools

logger = logging.getLogger(__name__)


def check_settings(config: TrainConfig) -> None:
    """Refuse settings that contradict each other whatever the data."""
    if config.episodes is None and config.data.batch_size < config.cluster.most:
        raise StageError(
            f"data.batch_size: {config.data.batch_size} images cannot be shared by "
            f"{config.cluster.most} workers; raise it, or lower cluster.workers"
        )
    if config.episodes is not None:  # as when the data are there, which it does not depend on
        BatchPlan.of_tasks(config.episodes, config.data.micro_batch, config.cluster.most, True)
    if config.precision == "fp16" and config.cluster.gpu is False:
        raise StageError("precision: fp16 needs a GPU; use bf16 or fp32, or set cluster.gpu: auto")


def check_unseen(
    check: ValidationConfig, trained: Mapping[str, Sequence[str]], where: str = ""
) -> None:
    """Refuse few-shot validation on a split that is trained on.

    Args:
        check: how a stage is validated.
        trained: splits that it, or one that it starts from, is trained on, by label.
        where: what the message begins with.
    """
    if check.kind == "classes" or not check.every_epochs:
        return
    for label, splits in trained.items():
        if check.split in splits:
            raise ConfigError(
                f"{where}validation.split: {check.split!r} is trained on by stage {label!r} "
                "(data.split), so its accuracy says nothing about new classes; use a split that "
                "no stage trains on, or set validation.every_epochs: 0"
            )


def check_method(config: TrainConfig) -> None:
    """Refuse a method that cannot be made on its network, or trained, unless only the data tell.

    Args:
        config: resolved.
    """
    if config.method.knowing(SOME_CLASSES) != config.method:
        return
    with suppress(ValueError, RuntimeError, TypeError):  # of one that cannot be made hollow
        build_optimizer(hollow_method(config), config.optim, config.additions)


def check_start(config: TrainConfig, earlier: tuple[str, TrainConfig] | None) -> None:
    """Refuse a network that nobody trains, and weights that do not fit the method.

    Args:
        config: resolved.
        earlier: label and resolved settings of the train stage in `needs`, if there is one.
    """
    name = config.method.name
    pretrained = getattr(config.backbone, "pretrained", None) is not None
    given = earlier is not None or pretrained or isinstance(config.backbone, FeaturesConfig)
    if METHODS.get(name).freezes_backbone and not given:
        assert config.backbone is not None
        raise ConfigError(
            f"method: {name!r} trains nothing of the backbone, and {config.backbone.name!r} would "
            "keep the weights drawn at random; list the train stage that gives them in needs and "
            "set init: {restore: backbone}, or train on a feature table"
        )
    if earlier is not None and config.init.restore != "backbone":
        _check_fit(config, *earlier)


def _check_fit(config: TrainConfig, label: str, earlier: TrainConfig) -> None:
    """Refuse to take over all weights where the two methods do not have the same ones."""
    wanted, saved = (_tensors(settings) for settings in (config, earlier))
    if wanted is None or saved is None:
        return
    strange = wanted.keys() ^ with_own_additions(saved, wanted)[0].keys()
    if strange:
        raise ConfigError(
            f"init.restore: {config.init.restore!r} takes over all weights of stage {label!r} "
            f"(method {earlier.method.name!r}), and method {config.method.name!r} has others, "
            f"e.g. {min(strange)!r}; set init: {{restore: backbone}}, or make method and backbone "
            "equal"
        )


def _tensors(config: TrainConfig) -> dict[str, Tensor] | None:
    """Return the method's tensors without values; None when only the data can tell them."""
    try:
        return hollow_method(config).state_dict()
    except (FewShotError, ValueError, RuntimeError, TypeError):
        return None


def check_data(config: TrainConfig, data: Data) -> None:
    """Refuse settings that the data cannot serve."""
    build_plan(config, data, config.cluster.most)
    check = config.validation
    if not check.every_epochs:
        return
    if check.kind == "classes":
        set_aside_images(config, data)
        return
    _check_new_classes(config, data)
    split = data.split(check.split)
    counts = split.class_rows().counts
    enough = int((counts >= check.shots + check.queries).sum())
    if check.ways > enough:
        raise StageError(
            f"validation.ways: {check.ways} classes per task, but split {check.split!r} has "
            f"{len(counts)}, of which {enough} have the {check.shots} + {check.queries} images of "
            "shots and queries; lower ways, shots or queries, or set validation.every_epochs: 0"
        )


def warn_of_data(config: TrainConfig, data: Data) -> None:
    """Say what of the data would never be trained on."""
    if config.episodes is None:
        return
    for pool in training_pools(config, data):
        warning = config.episodes.warning(pool)
        if warning is not None:
            logger.warning("%s", warning)


def _check_new_classes(config: TrainConfig, data: Data) -> None:
    """Refuse few-shot validation on classes that are trained on, by whatever images."""
    split = config.validation.split
    trained = {name for pool in training_pools(config, data) for name in pool.class_names}
    seen = [name for name in data.split(split).class_names if name in trained]
    if seen:
        raise StageError(
            f"validation.split: {split!r} has {len(seen)} classes that are trained on "
            f"(data.split), e.g. {seen[0]!r}, so its accuracy says nothing about new classes; use "
            "a split of other classes, or set validation.every_epochs: 0"
        )
