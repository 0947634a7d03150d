"""Ray Tune, set up to run whatever a searcher hands out; nothing of it is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from data_shards.location import Location
from tuning.searcher import StudyScheduler, StudySearcher


def prepare_tune() -> None:
    """Set what Tune reads from the environment."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # ours are in `loggers`
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints whatever `verbose` is
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # recipes name their data relative to here


def drive(
    searcher: StudySearcher,
    trainable: Any,
    scratch: Location,
    *,
    at_once: int,
    retries: int = 0,
    watchers: Sequence[tune.Callback] = (),
) -> None:
    """Let Ray Tune run what a searcher hands out, until it has no more.

    Args:
        searcher: of the study.
        trainable: what runs a trial; its results carry `NEWS`.
        scratch: a place for what Tune writes, which all nodes see; nothing in it is needed again.
        at_once: trials side by side.
        retries: restarts of a trial whose process died.
        watchers: told of all that happens.
    """
    prepare_tune()
    again = True
    while again:
        scratch.delete()  # of a sweep that was killed, or of the round before
        _tuner(searcher, trainable, scratch, at_once, retries, watchers).fit()
        again = searcher.fault is None and searcher.book.handed_back()  # Tune would not ask again
    scratch.delete()
    if searcher.fault is not None:
        raise searcher.fault
    if not searcher.book.over or searcher.book.running():  # Tune ends quietly when interrupted
        raise KeyboardInterrupt


def _tuner(  # noqa: PLR0917 - what `drive` was given
    searcher: StudySearcher,
    trainable: Any,
    scratch: Location,
    at_once: int,
    retries: int,
    watchers: Sequence[tune.Callback],
) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=StudyScheduler(searcher),
            num_samples=-1,
            max_concurrent_trials=at_once,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=scratch.path,
            storage_filesystem=scratch.filesystem,
            verbose=0,
            stop=Fault(searcher),
            failure_config=tune.FailureConfig(max_failures=retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=list(watchers),
        ),
    )


def _name(trial: Trial) -> str:
    return f"trial_{trial.config['number']:04d}"


class Fault(tune.Stopper):
    """Ends a sweep in which something went wrong that is no trial's own."""

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: trials end by themselves, or are pruned."""
        return False

    def stop_all(self) -> bool:
        """Return whether the sweep ends now."""
        return self.searcher.fault is not None
