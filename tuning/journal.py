"""The study's journal: Optuna's log of operations, one JSON line each, synced to disk line by line.

A process that is killed may leave half a line and a lock behind. Both are removed before the next
one writes: a line after half a line would make the whole file unreadable.
"""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from pathlib import Path

import optuna
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from fsl.errors import StorageError
from tuning.config import StudyConfig

JOURNAL = "study.journal"
LOCK_SECONDS = 1.0
"""A lock that is older belongs to a dead process: it is held for milliseconds."""
logger = logging.getLogger(__name__)


def open_journal(path: Path, config: StudyConfig) -> optuna.Study:
    """Return the study in a journal, which nobody else may be writing sweeps to.

    Args:
        path: the file; made when it is not there.
        config: name and goals of a new study.

    Raises:
        StorageError: the journal is damaged before its end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if path.exists():
        _remove_lock(path)
        _cut_torn_line(path)
    storage = JournalStorage(JournalFileBackend(str(path)))
    studies = storage.get_all_studies()
    if studies:
        return optuna.load_study(study_name=studies[0].study_name, storage=storage)
    directions = [goal.direction for goal in config.goals]
    study = optuna.create_study(study_name=config.name, storage=storage, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([goal.metric for goal in config.goals])
    return study


def copy_journal(path: Path) -> optuna.Study | None:
    """Return what a journal holds now, in memory, or None without a study. Nothing is written."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path)))
    studies = storage.get_all_studies()
    if not studies:
        return None
    name, memory = studies[0].study_name, InMemoryStorage()
    optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=memory)
    return optuna.load_study(study_name=name, storage=memory)


def _remove_lock(path: Path) -> None:
    """Remove the lock that a killed process left."""
    lock = path.with_name(path.name + ".lock")
    deadline = time.monotonic() + LOCK_SECONDS
    while lock.is_symlink() and time.monotonic() < deadline:
        time.sleep(0.05)
    for left in [lock, *path.parent.glob(f"{lock.name}*.rename")]:
        left.unlink(missing_ok=True)


def _cut_torn_line(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    with path.open("r+b") as stream:
        sound = 0
        torn: bytes | None = None
        for number, line in enumerate(stream, 1):
            if torn is not None:
                raise StorageError(
                    f"{path}: line {number - 1} is damaged, and others follow it; put a backup in "
                    "its place, or begin another study with study_dir=..."
                )
            if _is_sound(line):
                sound += len(line)
            else:
                torn = line
        if torn is not None:
            logger.warning("%s: cut off a line that was not written to its end", path)
            stream.truncate(sound)
            stream.flush()
            os.fsync(stream.fileno())


def _is_sound(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
