"""The rows of a split grouped by class.

Letters in shapes: N rows, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ClassRows(NamedTuple):
    """The rows of each class, one after the other: class c owns rows[starts[c]:starts[c + 1]]."""

    rows: NDArray[np.int64]  # (N,)
    starts: NDArray[np.int64]  # (C + 1,)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples per class, (C,)."""
        return np.diff(self.starts)

    def of(self, label: int) -> NDArray[np.int64]:
        """Rows of one class, ascending."""
        return self.rows[self.starts[label] : self.starts[label + 1]]

    @classmethod
    def grouped(cls, labels: NDArray[np.integer], classes: int) -> ClassRows:
        """Return the rows of `classes` classes, from the class of each row (N,)."""
        rows = np.argsort(labels, kind="stable").astype(np.int64)
        counts = np.bincount(labels, minlength=classes)
        return cls(rows, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
