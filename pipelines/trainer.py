"""The training loop of one worker: plain PyTorch, one loop for all methods.

It knows neither Ray nor files of its own accord: a `Session` tells it its rank, gives it the last
checkpoint and takes new ones. Everything random is a function of (seed, step, rank, micro-batch),
so a run that was killed and continued ends with the same weights, bit for bit, as one that was
not.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from data_shards.episodes import EpisodeBank
from data_shards.location import Location
from fsl.method import Method
from fsl.types import Progress
from pipelines.checkpoint import (
    SCORE,
    Checkpoint,
    CheckpointInfo,
    open_checkpoint,
    write_checkpoint,
)
from pipelines.loader import batches
from pipelines.metric_log import MetricLog
from pipelines.model import fresh_method
from pipelines.optim import Schedules, build_optimizer
from pipelines.session import Session
from pipelines.stepper import Stepper, step_seed
from pipelines.train_config import TrainConfig
from pipelines.training_data import (
    Data,
    build_data_set,
    build_plan,
    open_data,
    set_aside_images,
)
from pipelines.validation import ClassValidator, Validator
from pipelines.watch import COLLAPSED, Report
from pipelines.window import MetricWindow

logger = logging.getLogger(__name__)
WARN_STEPS = 200
"""Steps before a collapse is spoken of: at the start every network looks collapsed."""
WARN_LINES = 10
"""Lines of metrics in a row that must show it."""
SKIPS = 10
"""Steps in a row that `optim.skip_nonfinite` may leave out."""
SAVE_SECONDS = 60.0
"""Without `checkpoint.every_steps`: save at the first end of an epoch after so long."""


@dataclass(frozen=True)
class TrainSpec:
    """All that a worker needs to know; travels to it by pickle.

    Attributes:
        label: the stage's name in the recipe.
        config: settings, with seed, images and backbone resolved.
        data: root of the shard set or feature set.
        out: the stage's directory.
        digest: of everything that makes the run; checkpoints of another are refused.
        init: directory of the train stage to start from.
        bank: the validation tasks.
        features: whether `data` holds feature vectors.
        watched: whether someone may end the run early.
    """

    label: str
    config: TrainConfig
    data: Location
    out: Location
    digest: str
    init: Location | None = None
    bank: Location | None = None
    features: bool = False
    watched: bool = False


class Trainer:
    """One worker's part of a training run.

    Attributes:
        start: step it begins at.
        total_steps: optimizer steps of the whole run.
        reached: step it has come to.
        stopped: whether it was told to end at `reached`; then it is saved there.
    """

    def __init__(self, spec: TrainSpec, session: Session) -> None:
        self.spec, self.session, self.config = spec, session, spec.config
        self.seed = spec.config.seed or 0
        data = open_data(spec.data, spec.features)
        self.plan = build_plan(self.config, data, session.world_size)
        self.total_steps = self.config.optim.epochs * self.plan.steps_per_epoch
        self.saved_at = time.monotonic()
        self.suspicions = 0
        self.stopped = False
        with session.last_checkpoint() as directory:
            self._build_model(pretrained=directory is None)
            self._restore(directory)
        self.stepper = Stepper(
            self.method,
            self.optimizer,
            scaler=self.scaler,
            schedules=self.schedules,
            config=self.config,
            session=session,
        )
        self._build_data(data)

    def _build_model(self, pretrained: bool) -> None:
        config, session = self.config, self.session
        torch.manual_seed(step_seed(self.seed, "weights"))
        self.method: Method[Any] = fresh_method(config, pretrained).to(session.device)
        if config.channels_last:
            self.method.to(memory_format=torch.channels_last)
        self.method.train()
        self.optimizer = build_optimizer(self.method, config.optim, config.additions)
        self.schedules = Schedules(config.optim, self.total_steps, self.plan.steps_per_epoch)
        scaled = config.precision == "fp16"
        self.scaler = torch.amp.GradScaler(session.device.type, enabled=scaled)

    def _restore(self, directory: Path | None) -> None:
        """Continue this run's last checkpoint, or else start from the earlier stage's."""
        self.start = self.reached = 0
        if directory is not None:
            checkpoint = Checkpoint(directory, self.spec.digest)
            checkpoint.restore_model(self.method)
            checkpoint.restore_training(self.method, self.optimizer, self.scaler)
            self.start = self.reached = checkpoint.info.step
        elif self.spec.init is not None:
            with open_checkpoint(self.spec.init, self.config.init.which) as checkpoint:
                self._start_from(checkpoint)

    def _start_from(self, checkpoint: Checkpoint) -> None:
        """Take over what the settings say from an earlier stage's checkpoint."""
        if self.config.init.restore == "backbone":
            checkpoint.restore_backbone(self.method)
            return
        others = checkpoint.restore_method(self.method)
        if self.config.init.restore == "all":
            checkpoint.restore_training(self.method, self.optimizer, self.scaler, others)

    def _build_data(self, data: Data) -> None:
        config, session = self.config, self.session
        assert config.images is not None
        grid_of = getattr(self.method.backbone, "grid", None)
        self.data_set = build_data_set(config, data, self.plan, grid_of, session.rank)
        shares = {
            "batch_size": config.validation.batch_size,
            "loader_workers": config.data.loader_workers,
            "rank": session.rank,
            "world_size": session.world_size,
        }
        self.validator: Validator | ClassValidator | None = None
        if self.spec.bank is not None:
            split, bank = data.split(config.validation.split), EpisodeBank.load(self.spec.bank)
            self.validator = Validator(split, bank, config.images, **shares)
        elif config.validation.every_epochs:
            aside = set_aside_images(config, data)
            self.validator = ClassValidator(aside, config.images, **shares)

    def fit(self) -> dict[str, float]:
        """Train until the end or `stopped`; return the last numbers (none if nothing was left)."""
        if self.start >= self.total_steps:
            return {}
        log = MetricLog(self.spec.out, self.start) if self.session.rank == 0 else None
        try:
            return self._train(log)
        finally:
            if log is not None:
                log.close()

    def _train(self, log: MetricLog | None) -> dict[str, float]:
        steps = range(self.start, self.total_steps)
        pin = self.session.device.type == "cuda"
        loader = batches(self.data_set, steps, self.config.data, pin)
        skips = SKIPS if self.config.optim.skip_nonfinite else 0
        window = MetricWindow(skips, scaled=self.scaler.is_enabled())
        summary: dict[str, float] = {}
        scores: dict[str, float] = {}
        for step in steps:
            waited = time.perf_counter()
            micro = [next(loader) for _ in range(self.plan.micro_batches)]
            waited = time.perf_counter() - waited
            images = self.session.world_size * sum(part.images for part in micro)
            metrics = self.stepper.take(self.progress(step), micro)
            window.add(step, metrics, waited=waited, images=images)
            done = self.reached = step + 1
            if done % self.config.log_every == 0 or self._pauses(done):
                summary |= window.close() | self.schedules.apply(self.optimizer, step)
                self._warn(done, log, summary)
                if log is not None:
                    log.write("train", done, {"epoch": done / self.plan.steps_per_epoch} | summary)
            if self._pauses(done):
                scores |= self._pause(done, log, summary)
                window.restart()
            if self.stopped:
                break
        return summary | scores

    def progress(self, step: int) -> Progress:
        """Return where the run stands at `step`."""
        return Progress(step, self.total_steps, self.plan.steps_per_epoch)

    def _warn(self, done: int, log: MetricLog | None, metrics: Mapping[str, float]) -> None:
        """Say in words, once per run, that the method looks collapsed."""
        if log is None or done < WARN_STEPS or self.suspicions >= WARN_LINES:
            return
        warning = self.method.diagnose(metrics)
        self.suspicions = self.suspicions + 1 if warning is not None else 0
        if warning is not None and self.suspicions == WARN_LINES:
            log.warn(done, warning)

    def _pauses(self, done: int) -> bool:
        """Whether something other than training may happen after `done` steps."""
        every = self.config.checkpoint.every_steps
        epoch_ends = done % self.plan.steps_per_epoch == 0
        return epoch_ends or done == self.total_steps or (every is not None and done % every == 0)

    def _pause(
        self, done: int, log: MetricLog | None, summary: dict[str, float]
    ) -> dict[str, float]:
        """Validate and save when it is time to."""
        scores: dict[str, float] = {}
        if self.validator is not None and self._validates(done):
            result = self.validator.score(self.method, self.session.device, self.stepper.autocast())
            scores = {SCORE: result.mean, "val_half_width": result.half_width}
            if log is not None:
                values = {"accuracy": result.mean, "half_width": result.half_width}
                log.write("validation", done, values)
        due = bool(scores) or done == self.total_steps or self._saves(done)
        if due:
            self._save(done, log, summary | scores)
        self.stopped = self.spec.watched and not self._goes_on(done, summary | scores, bool(scores))
        if self.stopped and not due:
            self._save(done, log, summary)
        return scores

    def _goes_on(self, done: int, metrics: Mapping[str, float], validated: bool) -> bool:
        """Ask whoever watches the run; all ranks hear the same."""
        verdict = torch.ones(1, dtype=torch.uint8)
        if self.session.rank == 0:
            epoch = done / self.plan.steps_per_epoch
            sign = {COLLAPSED: 1.0} if self.suspicions >= WARN_LINES else {}
            report = Report(self.spec.label, done, self.total_steps, epoch, {**metrics, **sign})
            verdict[0] = self.session.goes_on(report if validated else None)
        return bool(self.from_first(verdict))

    def _validates(self, done: int) -> bool:
        epoch, rest = divmod(done, self.plan.steps_per_epoch)
        every = self.config.validation.every_epochs
        return rest == 0 and (epoch % every == 0 or done == self.total_steps)

    def _saves(self, done: int) -> bool:
        every = self.config.checkpoint.every_steps
        if every is not None:
            return done % every == 0
        late = torch.tensor([time.monotonic() - self.saved_at > SAVE_SECONDS], dtype=torch.uint8)
        return bool(self.from_first(late))

    def from_first(self, value: Tensor) -> Tensor:
        """Return rank 0's value on every rank."""
        if self.session.world_size > 1:
            value = value.to(self.session.device)
            dist.broadcast(value, 0)
        return value

    def _save(self, done: int, log: MetricLog | None, metrics: dict[str, float]) -> None:
        if log is not None:
            log.flush()
        name = f"step-{done:08d}"
        if self.session.rank != 0:
            self.session.save(None, name, metrics)
        else:
            info = CheckpointInfo(
                step=done,
                epoch=done // self.plan.steps_per_epoch,
                world_size=self.session.world_size,
                digest=self.spec.digest,
                config=self.config.model_dump(mode="json"),
                metrics=metrics,
            )
            with tempfile.TemporaryDirectory(prefix="fewshot-") as text:
                directory = Path(text)
                write_checkpoint(directory, info, self.method, self.optimizer, self.scaler)
                self.session.save(directory, name, metrics)
        self.saved_at = time.monotonic()
