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


class Margins(NamedTuple):
    """What decides about each image, at any bias."""

    of_seen: NDArray[np.bool_]  # (N,) whether its pair is a seen one
    margin: Floats  # (N,) of seen pairs: ahead of the best unseen; of others: behind the best seen


def seen_unseen(
    scores: NDArray[np.floating], labels: NDArray[np.integer], seen: NDArray[np.bool_]
) -> SeenUnseen:
    """Return the measures of one model; see `margins`."""
    return curve_of(margins(scores, labels, seen))


def margins(
    scores: NDArray[np.floating], labels: NDArray[np.integer], seen: NDArray[np.bool_]
) -> Margins:
    """Return how far each image is from being mistaken for a pair of the other kind.

    With bias b an image of a seen pair is right if its pair is the first choice among the seen ones
    and b is at most what it is ahead of the best unseen; an image of an unseen pair, if its pair is
    the first choice among the unseen and b is above what that lies behind the best seen. Where
    another pair of its kind is chosen, no bias helps: the margin is infinite.

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
    best = {}
    for kind in (True, False):
        pairs = np.flatnonzero(seen == kind)
        place = scores[:, pairs].argmax(1)
        best[kind] = scores[np.arange(len(scores)), pairs[place]], pairs[place]
    (best_seen, first_seen), (best_unseen, first_unseen) = best[True], best[False]
    ahead = np.where(first_seen == labels, best_seen - best_unseen, -np.inf)
    behind = np.where(first_unseen == labels, best_seen - best_unseen, np.inf)
    return Margins(of_seen, np.where(of_seen, ahead, behind).astype(np.float64))


def curve_of(found: Margins) -> SeenUnseen:
    """Return the measures of images with these margins."""
    ahead, behind = found.margin[found.of_seen], found.margin[~found.of_seen]
    steps = np.unique(found.margin[np.isfinite(found.margin)])
    # between two steps nothing changes: ask in the middles, and beyond both ends
    middles = (steps[1:] + steps[:-1]) / 2
    biases = np.concatenate([steps[:1] - 1, middles, steps[-1:] + 1]) if len(steps) else np.zeros(1)
    seen_right = _share_above(np.sort(ahead), biases)
    unseen_right = 1 - _share_above(np.sort(behind), biases)
    sums = seen_right + unseen_right
    harmonic = 2 * seen_right * unseen_right / np.where(sums > 0, sums, 1)
    return SeenUnseen(
        float(np.trapezoid(seen_right, unseen_right)),
        float(harmonic.max()),
        float(seen_right.max()),
        float(unseen_right.max()),
        np.stack([unseen_right, seen_right], 1),
    )


def _share_above(ordered: Floats, biases: Floats) -> Floats:
    """Return the share of values that are at least each bias."""
    share: Floats = 1 - np.searchsorted(ordered, biases, "left") / len(ordered)
    return share
