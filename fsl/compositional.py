"""Measures of compositional zero-shot learning: seen and unseen pairs in one closed world.

A model that learnt from seen pairs prefers them. A bias added to the scores of all unseen pairs
trades one accuracy for the other; the curve over all biases is what is reported (Purushwalkam et
al., ICCV 2019; Chao et al., ECCV 2016): its area (AUC), the best harmonic mean (HM), and its ends.

Letters in shapes: N images, P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fsl.errors import ConfigError

Floats = NDArray[np.float64]


class SeenUnseen(NamedTuple):
    """Accuracies in [0, 1]."""

    auc: float
    harmonic: float  # best harmonic mean of seen and unseen accuracy over all biases
    seen: float  # best accuracy on seen pairs
    unseen: float  # best accuracy on unseen pairs
    curve: Floats  # (steps, 2) unseen and seen accuracy, from the smallest bias to the largest


def seen_unseen(
    scores: NDArray[np.floating], labels: NDArray[np.integer], seen: NDArray[np.bool_]
) -> SeenUnseen:
    """Return the measures of one model.

    With bias b an image of a seen pair is right if its pair has the highest score of the seen ones
    and b is at most what it is ahead of the best unseen; an image of an unseen pair, if its pair is
    the best unseen one and b is above what that lies behind the best seen.

    Args:
        scores: (N, P) of every image for every pair of the closed world.
        labels: (N,) the right pair.
        seen: (P,) whether a pair was trained on.

    Raises:
        ConfigError: there are only seen, or only unseen pairs or images.
    """
    of_seen = seen[labels]
    if seen.all() or not seen.any() or of_seen.all() or not of_seen.any():
        raise ConfigError(
            "a curve of seen against unseen pairs needs images of both; name a split of each"
        )
    own = np.take_along_axis(scores, labels[:, None], 1)[:, 0]  # (N,)
    best_seen, best_unseen = scores[:, seen].max(1), scores[:, ~seen].max(1)
    ahead = np.where(own >= best_seen, own - best_unseen, -np.inf)[of_seen]
    behind = np.where(own >= best_unseen, best_seen - own, np.inf)[~of_seen]
    steps = np.concatenate([ahead, behind])
    steps = np.unique(steps[np.isfinite(steps)])
    # between two steps nothing changes: ask in the middles, and beyond both ends
    biases = np.concatenate([steps[:1] - 1, (steps[1:] + steps[:-1]) / 2, steps[-1:] + 1])
    seen_right = _share_above(np.sort(ahead), biases)
    unseen_right = 1 - _share_above(np.sort(behind), biases)
    sums = seen_right + unseen_right
    harmonic = 2 * seen_right * unseen_right / np.where(sums > 0, sums, 1)
    curve = np.stack([unseen_right, seen_right], 1)
    return SeenUnseen(
        float(np.trapezoid(seen_right, unseen_right)),
        float(harmonic.max(initial=0)),
        float(seen_right.max(initial=0)),
        float(unseen_right.max(initial=0)),
        curve,
    )


def _share_above(ordered: Floats, biases: Floats) -> Floats:
    """Return the share of values that are at least each bias."""
    share: Floats = 1 - np.searchsorted(ordered, biases, "left") / len(ordered)
    return share
