"""What an evaluation or a classification needs, looked at before anything runs.

Only labels, keys and settings of the planned stages are read: what they make need not be there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_shards.splits import HELD_OUT
from fsl.episode_heads import HeadConfig
from fsl.errors import StageError
from pipelines.ancestry import image_sources, trainings
from pipelines.asking import AskingConfig
from pipelines.candidates import BASE
from pipelines.stage import PlannedStage, inputs_giving

Planned = Mapping[str, PlannedStage]


def check_sources(inputs: Planned) -> None:
    """Refuse models whose images are not needed, or vectors: those of their own network."""
    tables = inputs_giving(inputs, "features")
    for model in inputs_giving(inputs, "model"):
        vectors = inputs_giving(model.inputs, "features")
        if not vectors and not inputs_giving(inputs, "shards"):
            raise StageError(
                f"needs: {model.label!r} is trained on images; list the stage that gives the shards"
            )
        for own in vectors:
            if not tables:
                raise StageError(
                    f"needs: {model.label!r} is trained on the vectors of {own.label!r}; list "
                    f"{own.label} too"
                )
            if _maker(own) != _maker(tables[0]):
                raise StageError(
                    f"needs: {model.label!r} is trained on the vectors of {own.label!r}, those of "
                    f"{tables[0].label!r} are made by another network, checkpoint or image size; "
                    "evaluate it in a stage of its own, with needs: "
                    f"[{own.label}, {model.label}]"
                )


def check_unseen(split: str, inputs: Planned) -> None:
    """Refuse a split on whose classes a needed model, or one before it, is trained."""
    asked, classes = image_sources(inputs), BASE if split == HELD_OUT else split
    for trained in trainings(inputs):
        if classes in trained.config.splits and asked & image_sources(trained.inputs):
            raise StageError(
                f"split: {split!r}, but {trained.label!r} is trained on its classes; name a split "
                "of classes that are new to all needed models and to what they start from"
            )


def check_centred(protocols: Sequence[HeadConfig], inputs: Planned) -> None:
    """Refuse to subtract the mean of images that the evaluation does not have."""
    there = {item.key for item in inputs.values()}
    for protocol in _centred(protocols):
        for model in inputs_giving(inputs, "model"):
            for own in model.inputs.values():
                if own.gives in {"shards", "features"} and own.key not in there:
                    raise StageError(
                        f"{_words(protocol)} subtracts the mean of what {model.label!r} is trained "
                        f"on, {own.label!r}, which is not in needs; evaluate it there, or use "
                        f"features: {_uncentred(protocol)}"
                    )
    for table in inputs_giving(inputs, "features"):
        splits = getattr(table.config, "splits", None)
        if splits is not None:
            check_base(protocols, repr(table.label), splits)


def check_base(protocols: Sequence[HeadConfig], source: str, splits: Sequence[str]) -> None:
    """Refuse to subtract the mean of the base classes where there are none."""
    for protocol in _centred(protocols):
        if BASE not in splits:
            raise StageError(
                f"{_words(protocol)} subtracts the mean of split {BASE!r}, which {source} lacks; "
                f"extract or write split {BASE} too, or use features: {_uncentred(protocol)}"
            )


def _centred(protocols: Sequence[HeadConfig]) -> list[HeadConfig]:
    return [protocol for protocol in protocols if protocol.features.startswith("centred")]


def _words(protocol: HeadConfig) -> str:
    return f"protocols: {protocol.name} with features: {protocol.features}"


def _uncentred(protocol: HeadConfig) -> str:
    return "l2" if protocol.features == "centred_l2" else "none"


def _maker(table: PlannedStage) -> tuple[str, ...]:
    """Return what made the vectors of whatever data: network, checkpoint, size; or the table."""
    networks = inputs_giving(table.inputs, "model")
    if not networks or not isinstance(table.config, AskingConfig):
        return (table.key,)
    shown = table.config.images
    size = "" if shown is None else shown.model_dump_json()
    return (*(network.key for network in networks), table.config.which, size)
