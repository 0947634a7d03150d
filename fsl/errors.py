"""What a user can get wrong. The command line prints these without a traceback, status 2.

Every message names the place (file or key), the value, the rule it breaks and the remedy.
"""

from __future__ import annotations

import copyreg
import difflib
from collections.abc import Iterable
from typing import Any


class FewShotError(Exception):
    """Base class of every error that a user can mend."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes by the message, whatever a class is made from."""
        return copyreg.__newobj__, (type(self), *self.args)  # type: ignore[attr-defined]


class ConfigError(FewShotError):
    """A recipe, an override or a setting is invalid."""


class UnknownNameError(ConfigError):
    """A name is not registered; the message lists the near match and what there is."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        listed = ", ".join(known) or "none"
        super().__init__(
            f"unknown {kind} {name!r}{did_you_mean(name, known)}; registered: {listed}"
        )


class ShardError(FewShotError):
    """A shard, a manifest or a sample in it is damaged or missing."""


class StorageError(FewShotError, OSError):
    """A file or object cannot be read, written or listed."""


class StageError(FewShotError):
    """A pipeline stage cannot start, continue or finish."""


class NonFiniteError(StageError):
    """The loss of a training run is not finite."""


class OutOfMemoryError(StageError):
    """A training run, a pass over images, or answering needs more memory than its device has."""


class CheckpointError(StageError):
    """A checkpoint is damaged, foreign, or belongs to another configuration."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
