"""A study's directory: opened by one sweep at a time, read by anyone at any time.

The journal is on this machine's disk while a sweep runs. Where the study's directory is on an
object store, the journal is copied there after every change that matters.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from data_shards.location import Location
from fsl.errors import ConfigError, StorageError
from pipelines.lock import run_lock
from tuning.config import StudyConfig
from tuning.journal import JOURNAL, copy_journal, open_journal
from tuning.outcome import Outcome
from tuning.pruners import build_pruner
from tuning.samplers import build_sampler
from tuning.space import Space, build_space
from tuning.study_record import SETTINGS, check_continues, read_settings, write_settings

logger = logging.getLogger(__name__)

REST = 19
"""Pause after copying a journal away, in units of the time that it took."""


class StudyStore:
    """An open study.

    Args:
        root: its directory.
        study: its trials; the sampler is to be set before each `ask`.
        journal: the file that they are written to.
    """

    def __init__(self, root: Location, study: optuna.Study, journal: Path) -> None:
        self.root, self.study, self.journal = root, study, journal
        self._copied = -1  # bytes of the journal that are in the study's directory
        self._rest_until = 0.0

    def sync(self, *, now: bool = False) -> None:
        """Copy the journal into a study directory that is not on this machine.

        At most a twentieth of the time goes into it, unless `now`. What a lost machine had not
        copied yet is no loss: a trial whose end is unknown is handed out again, and its stages
        are found done.
        """
        size = self.journal.stat().st_size
        begun = time.monotonic()
        if self.root.local is not None or size == self._copied:
            return
        if now:
            (self.root / JOURNAL).upload(self.journal)
            self._copied = size
        elif begun > self._rest_until:
            try:
                (self.root / JOURNAL).upload(self.journal)
                self._copied = size
            except StorageError as error:
                logger.warning("the study's journal is copied later: %s", error)
            ended = time.monotonic()
            self._rest_until = ended + REST * (ended - begun)


@contextmanager
def open_study(config: StudyConfig, space: Space | None = None) -> Iterator[StudyStore]:
    """Hold a study open for a sweep; begins it where there is none yet.

    Args:
        config: the study's settings.
        space: what it searches, if that was built already.

    Raises:
        StageError: another process runs this study.
        ConfigError: the directory holds a study whose trials cannot be compared with new ones.
        StorageError: the journal is damaged or the directory cannot be written.
    """
    space = space or build_space(config)
    root = config.root
    with run_lock(root), _working_folder(root) as folder:
        before = read_settings(root)
        journal = root / JOURNAL
        if before is not None:
            check_continues(root, before, config, space)
        elif journal.exists():
            raise ConfigError(
                f"{root}: holds a {JOURNAL} but no {SETTINGS}, so nobody knows what its trials "
                "are; choose another study_dir=..."
            )
        write_settings(root, config)
        path = folder / JOURNAL
        if root.local is None and journal.exists():
            journal.download(path)
        study = open_journal(path, config)
        study.pruner, study.sampler = build_pruner(config), build_sampler(config, 0)
        for point in space.points():
            if not _has(study, point):
                study.enqueue_trial(point)
        store = StudyStore(root, study, path)
        try:
            yield store
        finally:
            copy_away(store)


def copy_away(store: StudyStore) -> None:
    """Copy the journal away; where that fails, keep it here and say where.

    Raises:
        StorageError: names the file that holds what was not copied.
    """
    try:
        store.sync(now=True)
    except StorageError as error:
        handle, kept = tempfile.mkstemp(prefix="fewshot-", suffix=f"-{JOURNAL}")
        os.close(handle)
        shutil.copyfile(store.journal, kept)
        raise StorageError(
            f"{error}; the study's journal is kept in {kept}: copy it to {store.root / JOURNAL} "
            "before the sweep goes on, or the trials since the last copy are run again"
        ) from error


def _has(study: optuna.Study, point: Mapping[str, Any]) -> bool:
    """Return whether a point was asked, by a trial that was not lost to a fault."""
    return any(
        trial.system_attrs.get("fixed_params", trial.params) == point
        for trial in study.get_trials(deepcopy=False)
        if trial.user_attrs.get("outcome") != Outcome.FAILED
    )


def read_study(root: Location) -> tuple[StudyConfig, optuna.Study]:
    """Return the settings of a study and what its journal holds now; nothing is written or locked.

    Raises:
        ConfigError: there is no study.
    """
    config = read_settings(root)
    if config is None:
        raise ConfigError(f"{root}: no study is here (there is no {SETTINGS}); run fewshot tune")
    journal = root / JOURNAL
    study: optuna.Study | None = None
    if journal.exists():
        with tempfile.TemporaryDirectory(prefix="fewshot-study-") as folder:
            path = root.local / JOURNAL if root.local is not None else Path(folder) / JOURNAL
            if root.local is None:
                journal.download(path)
            study = copy_journal(path)
    if study is None:  # interrupted before the first trial
        directions = [goal.direction for goal in config.goals]
        study = optuna.create_study(study_name=config.name, directions=directions)
    study.pruner, study.sampler = build_pruner(config), build_sampler(config, 0)
    return config, study


@contextmanager
def _working_folder(root: Location) -> Iterator[Path]:
    """Yield where the journal is while it is written."""
    if root.local is not None:
        yield root.local
        return
    folder = Path(tempfile.mkdtemp(prefix="fewshot-study-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
