"""Trials of one study are of one data set: its digests are in the study."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from fsl.errors import ConfigError
from tuning.store import StudyStore

DATA = "data"
"""Attribute of a study: digests of the outside data that its recipes read."""


def data_of(study: optuna.Study) -> list[str] | None:
    """Return the digests of what the trials were trained and judged on, if they were noted."""
    return study.user_attrs.get(DATA)


def check_data(store: StudyStore, data: Sequence[str]) -> None:
    """Note the data of a study that begins.

    Args:
        store: the study.
        data: what `Space.check_plans` returned.

    Raises:
        ConfigError: the study goes on, and its trials are of other data.
    """
    before = data_of(store.study)
    if before is None:
        store.study.set_user_attr(DATA, list(data))
        store.sync()
    elif before != list(data):
        raise ConfigError(
            f"{store.root}: the trials of the study that is here are of other data than its "
            "recipes read now (was another source.root or path given, or were files changed?), so "
            "new ones could not be compared; give the same data, or begin another study with "
            "study_dir=..."
        )
