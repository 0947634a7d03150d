"""One trial's pipeline in a thread: reports at each validation, and can be stopped there.

The thread waits after every report until it is asked for the next one, so that whoever judges the
trial decides before anything more is computed.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import queue
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace

import torch

from data_shards.location import Location
from fsl.config import build
from fsl.errors import (
    CheckpointError,
    ConfigError,
    FewShotError,
    NonFiniteError,
    OutOfMemoryError,
    ShardError,
    StorageError,
)
from pipelines.checkpoint import SCORE
from pipelines.metric_log import read_metrics
from pipelines.runner import PipelineConfig, StageEvent, run_pipeline
from pipelines.watch import Report, TrainingStopped, watching
from tuning.outcome import Outcome, TrialJob, TrialNews

INFEASIBLE = (NonFiniteError, OutOfMemoryError, ConfigError)
FAULTS = (StorageError, ShardError, CheckpointError)
"""What says nothing about a trial's settings, wherever it was met."""
SHOWN_LINES = 12
logger = logging.getLogger(__name__)


class Collapsed(Exception):
    """The method's features collapsed: training on makes no sense."""


class PipelineWork:
    """A trial at work.

    Args:
        job: what to run.
    """

    def __init__(self, job: TrialJob) -> None:
        self.job = job
        self.news = TrialNews()
        self._begun = time.monotonic()
        self._reports: queue.Queue[TrialNews] = queue.Queue()
        self._may_go_on = threading.Semaphore(0)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"trial {job.number}", daemon=True)

    def next(self) -> TrialNews:
        """Let the pipeline go on until it reports, and return what."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._may_go_on.release()
        return self._reports.get()

    def stop(self) -> None:
        """End the pipeline at its next validation, or now when it waits, and see it end."""
        self._stopped.set()
        self._may_go_on.release()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        outcome, reason = Outcome.COMPLETE, ""
        try:
            config = build(PipelineConfig, self.job.recipe)
            self.root = config.root
            with watching(self._watch):
                results = run_pipeline(config, self._on_event, shared=True)
            judged_stage = results[self.job.objective]
            metrics = dict(judged_stage.metrics)
            self.news = replace(
                self.news,
                percent=100,
                metrics=metrics,
                curve=curve(judged_stage.path, int(metrics["steps"])),
                values=[metrics[name] for name in self.job.metrics],
            )
        except TrainingStopped:
            outcome, reason = Outcome.PRUNED, "stopped"
        except Exception as error:
            outcome, reason = judged(error)
        self._report(replace(self.news, outcome=outcome, reason=reason))

    def _on_event(self, event: StageEvent) -> None:
        label = event.stage.label
        stages = {**self.news.stages, label: event.stage.path.name}
        self.news = replace(self.news, stages=stages, stage=label)
        if event.state == "done":
            self.news = replace(self.news, ran=[*self.news.ran, label])
        elif event.state == "skipped":
            self.news = replace(self.news, reused=[*self.news.reused, label])

    def _watch(self, report: Report) -> bool:
        """Pass a validation on, and wait for the verdict."""
        percent = percent_of(report.step, report.total_steps)
        self.news = replace(self.news, stage=report.label, percent=percent, value=None)
        if report.label == self.job.objective:
            metrics = dict(report.metrics)
            if metrics.get("collapsed"):
                raise Collapsed
            self.news = replace(
                self.news,
                metrics=metrics,
                value=metrics.get(SCORE),
                curve=curve(self.root / self.news.stages[report.label], report.total_steps),
                epochs=report.epoch,
            )
        self._report(self.news)
        self._may_go_on.acquire()
        self.news = replace(self.news, value=None)
        return not self._stopped.is_set()

    def _report(self, news: TrialNews) -> None:
        seconds = time.monotonic() - self._begun
        self._reports.put(replace(news, seconds=seconds, device_seconds=seconds * self.job.devices))


def curve(stage: Location, total_steps: int) -> dict[str, float]:
    """Return the validation accuracies of a train stage by percent of its training, as text.

    An attempt that was killed may have got further than it could tell.
    """
    return {
        str(percent_of(line["step"], total_steps)): line["accuracy"]
        for line in read_metrics(stage)
        if line["kind"] == "validation"
    }


def percent_of(step: int, total_steps: int) -> int:
    """Return how much of a training is done, 1 to 100."""
    return max(1, round(100 * step / total_steps))


def release_memory() -> None:
    """Give back what a trial that ended leaves behind: the next one in this process wants it."""
    gc.collect()
    torch.cuda.empty_cache()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # every thread has a heap, and glibc keeps those of ended ones
        libc.malloc_trim(0)


def judged(error: Exception) -> tuple[Outcome, str]:
    """Return what an error says of a trial: impossible settings, or a fault."""
    for cause in reversed(list(causes(error))):  # the innermost says it without where it was found
        if isinstance(cause, FAULTS):
            break
        if isinstance(cause, Collapsed):
            return Outcome.INFEASIBLE, "the features collapsed"
        if isinstance(cause, INFEASIBLE):
            return Outcome.INFEASIBLE, str(cause)
    if isinstance(error, FewShotError):
        return Outcome.FAILED, str(error)
    lines = traceback.format_exception(error)
    logger.error("".join(lines))
    return Outcome.FAILED, " | ".join("".join(lines).strip().splitlines()[-SHOWN_LINES:])


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
