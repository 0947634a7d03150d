"""The disk that a sweep's checkpoints take: the worst trials' go first.

Only checkpoints are deleted. What a trial measured stays, and so do the checkpoints of stages that
several trials start from. An earlier stage of one trial alone goes with that trial's own; it is
not done then any more, so that a later trial that wants it trains it again.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

import optuna
import pyarrow as pa
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pyarrow import fs

from data_shards.location import Location
from fsl.errors import StorageError
from pipelines.checkpoint import DIRECTORY
from pipelines.records import RESULT
from tuning.outcome import own_trials
from tuning.ranking import choose, ranked
from tuning.recipe_tree import STAGES_DIR

GIGABYTE = 10**9
ATTEMPTS = 5
"""Listings of a directory in which trials write and delete: one may fail halfway."""
logger = logging.getLogger(__name__)


def trim(root: Location, study: optuna.Study, keep_bytes: int, protect: int) -> list[str]:
    """Delete checkpoints until all together fit; return the names of the stages they were of.

    Those of stopped and failed trials go first, then those of the worst. What cannot be read or
    deleted is warned of, and tried again at the next call: a sweep does not end over it.

    Args:
        root: the study's directory.
        study: its trials.
        keep_bytes: what the checkpoints of all stages may take.
        protect: so many of the best trials keep theirs; the very best always does.
    """
    stages = root / STAGES_DIR
    deleted: list[str] = []
    try:
        sizes = checkpoint_sizes(stages)
        total = sum(sizes.values())
        judged = _judged_stages(own_trials(study))
        for name in _expendable(study, max(protect, 1)):
            if total <= keep_bytes:
                break
            if name in sizes:
                if name not in judged:
                    (stages / name / RESULT).delete()
                (stages / name / DIRECTORY).delete()
                total -= sizes.pop(name)
                deleted.append(name)
    except StorageError as error:
        logger.warning("trials.checkpoint_gb: no room could be made: %s", error)
        return deleted
    if total > keep_bytes:
        _warn_once(str(root), keep_bytes)
    return deleted


def checkpoint_sizes(stages: Location) -> dict[str, int]:
    """Return the bytes of the checkpoints of each stage that has any, by directory name.

    Raises:
        StorageError: the directory cannot be listed.
    """
    sizes: dict[str, int] = {}
    for info in _files(stages):
        name, _, rest = info.path.removeprefix(stages.path).lstrip("/").partition("/")
        if rest.startswith(f"{DIRECTORY}/"):
            sizes[name] = sizes.get(name, 0) + info.size
    return sizes


def _files(place: Location) -> list[fs.FileInfo]:
    """Return all files below a directory, with one request where the storage can."""
    selector = fs.FileSelector(place.path, allow_not_found=True, recursive=True)
    for attempt in range(ATTEMPTS):
        try:
            found = place.filesystem.get_file_info(selector)
            return [info for info in found if info.type == fs.FileType.File]
        except (OSError, pa.ArrowException) as error:
            if attempt == ATTEMPTS - 1 or not isinstance(error, FileNotFoundError):
                raise StorageError(f"{place}: cannot be listed: {error}") from error
    raise AssertionError


def _expendable(study: optuna.Study, protect: int) -> Iterator[str]:
    """Yield the stages' directories that nobody needs, the first to go first."""
    trials = own_trials(study)
    labels, judged = _judged_labels(trials), _judged_stages(trials)
    users = Counter(name for trial in trials for name in set(_stages(trial).values()))
    # a trial that has not told its stages yet may be about to start from any
    unknown = any(trial.state == TrialState.RUNNING and not _stages(trial) for trial in trials)
    best = {trial.number for trial in choose(study, protect)}
    needed: set[str] = set()
    theirs: dict[str, None] = {}
    for trial in _best_first(study, trials):
        stages = set(_stages(trial).values())
        told = trial.user_attrs.get("recipe", "") in labels  # else which is judged is not known
        if trial.number in best or trial.state == TrialState.RUNNING or not told:
            needed |= stages
            continue
        shared = {name for name in stages - judged if users[name] > 1 or unknown}
        needed |= shared
        for name in sorted(stages - shared):
            theirs.setdefault(name)  # of several trials it counts as the best one's
    yield from (name for name in reversed(theirs) if name not in needed)


def _stages(trial: FrozenTrial) -> dict[str, str]:
    return dict(trial.user_attrs.get("stages", {}))


def _judged_stages(trials: Sequence[FrozenTrial]) -> set[str]:
    """Return the directories of judged stages."""
    labels = _judged_labels(trials)
    found = (
        _stages(trial).get(labels.get(trial.user_attrs.get("recipe", ""), "")) for trial in trials
    )
    return {name for name in found if name is not None}


def _judged_labels(trials: Sequence[FrozenTrial]) -> dict[str, str]:
    """Return the judged stage's label of each recipe of which a trial has come so far."""
    return {
        trial.user_attrs["recipe"]: list(trial.user_attrs["stages"])[-1]  # it is the last to run
        for trial in trials
        if trial.user_attrs.get("stages")
        and (trial.state == TrialState.COMPLETE or trial.intermediate_values)
    }


def _best_first(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials, best first, then the others by the last value they reached."""
    sign = -1.0 if study.directions[0] == StudyDirection.MAXIMIZE else 1.0

    def reached(trial: FrozenTrial) -> float:
        curve = trial.intermediate_values
        return sign * curve[max(curve)] if curve else math.inf

    others = [trial for trial in trials if trial.state != TrialState.COMPLETE]
    return [*ranked(study), *sorted(others, key=reached)]


@cache
def _warn_once(root: str, keep_bytes: int) -> None:
    logger.warning(
        "trials.checkpoint_gb: %s: the checkpoints of the best trials, of running ones and of "
        "shared stages alone take more than the %g GB allowed; they are kept",
        root,
        keep_bytes / GIGABYTE,
    )
