"""What a model was made from: which method it is whatever the seed, its seed, its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fsl.config import build, digest, fingerprint
from fsl.errors import FewShotError
from pipelines.asking import AskingConfig
from pipelines.report.history import StageRecord
from pipelines.stage import STAGES

Stages = Mapping[str, StageRecord]


def settings_digest(label: str, stages: Stages) -> str:
    """Return the identity of a stage's result but for the seeds, its own and its inputs'."""
    return _identity(stages[label], stages, {"seed": 0})


def method_digest(label: str, evaluation: str, stages: Stages, head: Any) -> str:
    """Return the identity of a model and of how it answers but for the seeds.

    Args:
        label: the model's; one that is no stage is a baseline, known by name and colour mode.
        evaluation: label of the evaluate or classify stage.
        stages: what the evaluation was made from.
        head: settings of the protocol, None when they are not recorded.
    """
    if label in stages:
        how = [_asking(stages[evaluation]), head]
        return digest({"label": label, "model": settings_digest(label, stages), "how": how})
    seen = (record.config.get("images") for record in stages.values() if record.kind == "train")
    mode = next((images["mode"] for images in seen if images), None)  # sizes change no baseline
    return digest({"baseline": label, "mode": mode, "head": head})


def is_trained(label: str, stages: Stages) -> bool:
    """Return whether training is behind a model: not behind a baseline or published features."""
    return any(record.kind == "train" for record in _made_from(label, stages))


def seed_of(label: str, stages: Stages) -> int | None:
    """Return the seed of the last training behind a model, None without one."""
    for record in _made_from(label, stages):
        if record.kind == "train":
            seed = record.config.get("seed")
            return seed if isinstance(seed, int) else None
    return None


def trainings_before(label: str, stages: Stages) -> frozenset[str]:
    """Return the keys of the trainings that a model was made from, its own aside."""
    return frozenset(
        record.key
        for record in _made_from(label, stages)
        if record.kind == "train" and record is not stages.get(label)
    )


def cpu_minutes(label: str, stages: Stages) -> float | None:
    """Return the training time of a model with all the models it was made from.

    None when a train stage among them did not record it; a baseline has nothing to train: 0.
    """
    total = 0.0
    for record in _made_from(label, stages):
        spent = record.result.get("metrics", {}).get("cpu_minutes")
        if spent is None and record.kind == "train":
            return None
        total += spent or 0.0
    return total


def _made_from(label: str, stages: Stages) -> Iterator[StageRecord]:
    """Yield a stage and all above it, each once."""
    seen: set[str] = set()
    waiting = [label]
    while waiting:
        name = waiting.pop()
        if name not in seen and name in stages:
            seen.add(name)
            waiting += stages[name].needs
            yield stages[name]


def _asking(evaluation: StageRecord) -> str:
    """Return the identity of how models are asked, not of what, in whatever kind of stage."""
    fields = AskingConfig.model_fields
    there = {name: value for name, value in evaluation.config.items() if name in fields}
    return fingerprint(build(AskingConfig, {**there, "kind": ""}))


def _identity(record: StageRecord, stages: Stages, ignored: Mapping[str, Any]) -> str:
    if not record.config:  # it lies outside the run directory: only its key is known
        return record.key
    inputs = [_identity(stages[name], stages, ignored) for name in record.needs]
    settings = _settings(record, ignored)
    return digest({"kind": record.kind, "settings": settings, "inputs": inputs})


def _settings(record: StageRecord, ignored: Mapping[str, Any]) -> str:
    """Return the fingerprint of a stage's settings with fixed values for the ignored ones.

    A file whose content is recorded counts by that, wherever it lay. Settings that the installed
    version does not understand are compared as they are written.
    """
    try:
        kind = STAGES.get(record.kind)
        config = build(kind.Config, record.config)
    except FewShotError:
        dropped = {*ignored, "needs"}
        return digest({k: v for k, v in record.config.items() if k not in dropped})
    keyed = kind(config).keyed() if record.data else config
    fields = type(config).model_fields
    update = {key: value for key, value in ignored.items() if key in fields}
    found = fingerprint(keyed.model_copy(update=update))
    return found if keyed == config else digest([found, record.data])
