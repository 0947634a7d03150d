"""The train stage: settings -> a run on Ray Train -> checkpoints, best and last named.

One stage serves pretraining, distillation and fine-tuning: with a train stage among its needs it
starts from that one's weights (and optimizer), and takes over images and backbone unless it
names its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import ClassVar

from data_shards.class_tree import tree_digest
from data_shards.episodes import EpisodeBank
from data_shards.features import FeatureSet
from data_shards.location import Location
from data_shards.variable_episodes import VariableEpisodes
from fsl.config import digest, fingerprint
from fsl.errors import CheckpointError, StageError
from pipelines.ancestry import image_sources, planned_models, trainings
from pipelines.checkpoint import (
    DIRECTORY,
    SCORE,
    CheckpointInfo,
    find_checkpoints,
    trained_config,
    write_pointers,
)
from pipelines.metric_log import read_metrics
from pipelines.quiet import prepare_environment
from pipelines.resolve import filled_in, resolved
from pipelines.stage import (
    OPTIONAL,
    STAGES,
    Count,
    PlannedStage,
    R,
    Stage,
    StageResult,
    inputs_giving,
)
from pipelines.starting_weights import weights_digest, weights_file, without_file
from pipelines.train_checks import (
    check_data,
    check_method,
    check_settings,
    check_start,
    check_unseen,
    warn_of_data,
)
from pipelines.train_config import TrainConfig
from pipelines.trainer import TrainSpec
from pipelines.training_data import Data, build_plan, open_data
from pipelines.watch import current_watcher

BANKS = "banks"


@STAGES.register("train")
class TrainStage(Stage[TrainConfig]):
    """Trains one method on one split of a shard set."""

    Config = TrainConfig
    version = 2
    gives = "model"
    takes: ClassVar[Mapping[str, Count]] = {
        "shards": OPTIONAL,
        "features": OPTIONAL,
        "model": OPTIONAL,
    }

    def check(self, inputs: Mapping[str, PlannedStage]) -> None:
        """Find impossible settings; those about the data once the shards exist."""
        source = data_source(inputs)
        earlier = next(planned_models(inputs), None)
        config = resolved(self.config, earlier and earlier[1], features=source.gives == "features")
        check_settings(config)
        check_method(config)
        images = image_sources(inputs)
        before = [stage for stage in trainings(inputs) if image_sources(stage.inputs) & images]
        trained = {stage.label: stage.config.splits for stage in before}
        check_unseen(config.validation, trained | {self.label: config.splits})
        if earlier is not None or not inputs_giving(inputs, "model"):
            check_start(config, earlier)
        if source.there is not None:
            check_data(config, open_data(source.there, source.gives == "features"))

    def keyed(self) -> TrainConfig:
        """Leave out where a file of weights lies."""
        return without_file(self.config)

    def data_digest(self) -> str:
        """Return the digest of a file of weights to start from."""
        return weights_digest(self.config)

    def run(self, inputs: Mapping[str, StageResult], out: Location) -> Mapping[str, float]:
        """Train, or go on training, to the end."""
        source = data_source(inputs)
        features = source.gives == "features"
        data = open_data(source.path, features)
        models = inputs_giving(inputs, "model")
        earlier = trained_config(models[0].path) if models else None
        config = filled_in(resolved(self.config, earlier, features), data)
        check_settings(config)
        check_data(config, data)
        warn_of_data(config, data)
        spec = run_spec(config, data, out, models[0] if models else None, self.label)
        total_steps = plan_steps(config, data)
        found = find_checkpoints(out)
        _refuse_foreign(found, spec.digest, out)
        if not any(info.step == total_steps for info in found.values()):
            _launch(spec, total_steps)
        return _numbers(out)


def _launch(spec: TrainSpec, total_steps: int) -> None:
    """Train, here or on Ray; either is imported when needed: Ray is slow to import."""
    if spec.config.cluster.launcher == "local":
        from pipelines.local_trainer import run_here  # noqa: PLC0415

        run_here(spec, total_steps)
        return
    prepare_environment()  # Ray reads it when it is imported
    from pipelines.ray_trainer import run_training  # noqa: PLC0415

    run_training(spec, total_steps)


def data_source(inputs: Mapping[str, R]) -> R:
    """Return the input that is trained on: shards or features."""
    found = inputs_giving(inputs, "shards") + inputs_giving(inputs, "features")
    if len(found) != 1:
        labels = ", ".join(item.label for item in found) or "none"
        raise StageError(
            "needs exactly one stage that gives shards (kind write_shards or use_shards) or "
            f"features (extract_features or import_features), got {labels}; list exactly one"
        )
    return found[0]


def plan_steps(config: TrainConfig, data: Data) -> int:
    """Return the optimizer steps of the run."""
    plan = build_plan(config, data, config.cluster.most)
    return config.optim.epochs * plan.steps_per_epoch


def run_spec(
    config: TrainConfig,
    data: Data,
    out: Location,
    earlier: StageResult | None = None,
    label: str = "",
) -> TrainSpec:
    """Return what every worker is told; writes the validation tasks into `out`."""
    init_key = earlier.key if earlier else None
    return TrainSpec(
        label=label or out.name,
        config=config,
        data=data.root,
        out=out,
        digest=run_digest(config, data, init_key),
        init=earlier.path if earlier else None,
        bank=_seal_bank(config, data, out),
        features=isinstance(data, FeatureSet),
        watched=current_watcher() is not None,
    )


def run_digest(config: TrainConfig, data: Data, init_key: str | None) -> str:
    """Return the identity of a run: checkpoints of another one are refused."""
    settings = fingerprint(without_file(config))
    parts = {"settings": settings, "data": data.digest, "init": init_key}
    if isinstance(config.episodes, VariableEpisodes) and config.episodes.class_tree:
        parts["class_tree"] = tree_digest(data.root)
    if init_key is None and weights_file(config):  # else the earlier stage's weights take over
        parts["weights"] = weights_digest(config)
    return digest(parts)


def _refuse_foreign(found: Mapping[str, CheckpointInfo], own: str, out: Location) -> None:
    """Refuse checkpoints of another run: they would be continued, or taken for the result."""
    for name, info in found.items():
        if info.digest != own:
            raise CheckpointError(
                f"{out / DIRECTORY / name}: made with other settings, data or seed (digest "
                f"{info.digest[:12]}, this run has {own[:12]}); delete {out / DIRECTORY} to train "
                "again"
            )


def _seal_bank(config: TrainConfig, data: Data, out: Location) -> Location | None:
    """Write the validation tasks into the stage's directory."""
    check = config.validation
    if not check.every_epochs or check.kind == "classes":
        return None
    bank = EpisodeBank.make(
        data.split(check.split),
        check.ways,
        check.shots,
        check.queries,
        check.tasks,
        config.seed or 0,
    )
    return bank.save(out / BANKS)


def _numbers(out: Location) -> dict[str, float]:
    """Return what the stage's result shows: the best checkpoint's accuracy, the last loss."""
    pointers = write_pointers(out)
    last, best = pointers["last"], pointers["best"]
    loss = last.metrics.get("loss", math.nan)  # none when every step was left out
    numbers = {"loss": loss, "steps": float(last.step)}
    if SCORE in best.metrics:
        numbers |= {SCORE: best.metrics[SCORE], "best_step": float(best.step)}
    lines = [line for line in read_metrics(out) if line["kind"] == "train"]
    if lines:
        numbers["images_per_second"] = median(line["images_per_second"] for line in lines)
        paces = [line["step_seconds"] for line in lines if "step_seconds" in line]
        if paces:  # runs of older versions did not note it
            numbers["step_seconds"] = median(paces)
        numbers["cpu_minutes"] = sum(line["cpu_seconds"] for line in lines) / 60  # of rank 0
    return numbers
