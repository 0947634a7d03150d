"""A trial as Ray Tune runs it: an actor with a pipeline in a thread, one result per validation."""

from __future__ import annotations

from typing import Any

from ray.tune import Trainable

from pipelines.quiet import prepare_environment
from tuning.outcome import TrialJob
from tuning.searcher import NEWS
from tuning.work import PipelineWork, release_memory


class PipelineTrial(Trainable):
    """Runs trials of a study one after another.

    It saves nothing for Tune: a trial that is started again finds its stages done, or goes on from
    their checkpoints.
    """

    work: PipelineWork | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare a trial."""
        prepare_environment()
        self.work = PipelineWork(TrialJob.from_json(config["job"]))

    def step(self) -> dict[str, Any]:
        """Go on until the next validation, or the end."""
        assert self.work is not None
        news = self.work.next()
        shown = {
            "percent": news.percent,
            **({} if news.value is None else {"value": news.value}),
            **{name: value for name, value in news.metrics.items() if isinstance(value, float)},
        }
        return {**shown, NEWS: news.to_json(), "done": news.outcome is not None}

    def cleanup(self) -> None:
        """End what still runs."""
        if self.work is not None:
            self.work.stop()
            self.work = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial into this process."""
        self.cleanup()
        release_memory()
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: the stages do."""
