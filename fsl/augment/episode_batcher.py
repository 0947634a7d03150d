"""Decoded images of training tasks -> `Episode`; feature vectors are stacked as they are.

Letters in shapes: T tasks, S support images, Q queries, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from torch import Tensor

from fsl.augment.config import SingleViewConfig
from fsl.augment.draws import Stream, as_seeds, hashed
from fsl.augment.evaluation import check_image, evaluation_images
from fsl.augment.simclr_episodes import SimCLREpisodeConfig, simclr_episode
from fsl.augment.views import make_views, prepared
from fsl.batchers import EpisodeLayout
from fsl.images import ImageSpec
from fsl.types import Episode

CONVERSION = 13  # a stream of a seed's numbers, beside those of `draws` and of SimCLR episodes


class EpisodicBatcher:
    """A `fsl.batchers.EpisodeBatcher`.

    Args:
        images: colour mode, normalisation and side of the views.
        view: settings of one random view of each image; None gives the evaluation view. Quarter
            turns are drawn per class and task: a turned class is another class.
        simclr_fraction: share of the tasks that become SimCLR episodes.
        simclr: how these change images.
    """

    def __init__(
        self,
        images: ImageSpec,
        view: SingleViewConfig | None = None,
        simclr_fraction: float = 0.0,
        simclr: SimCLREpisodeConfig | None = None,
    ) -> None:
        self.images, self.view = images, view
        self.simclr_fraction, self.simclr = simclr_fraction, simclr or SimCLREpisodeConfig()
        self.varies = simclr_fraction > 0

    def __call__(
        self,
        images: Sequence[Tensor] | Tensor,
        labels: Sequence[int],
        seeds: Sequence[int],
        layout: EpisodeLayout,
    ) -> Episode:
        """Return the tasks, stacked; see `fsl.batchers.EpisodeBatcher`."""
        tasks, shown = layout.support_labels.shape
        if self._is_converted(seeds):
            return simclr_episode(images, layout, seeds, self.images, self.simclr)
        pixels = self._pixels(images, labels, seeds, layout)
        pixels = pixels.reshape(tasks, -1, *pixels.shape[1:])  # (T, S + Q, C, H, W)
        support, query = pixels[:, :shown], pixels[:, shown:]
        return Episode(
            support.contiguous(),
            layout.support_labels,
            query.contiguous(),
            layout.query_labels,
            layout.ways,
        )

    def _is_converted(self, seeds: Sequence[int]) -> bool:
        """Whether a task, which then is alone in its batch, becomes a SimCLR episode."""
        if not self.simclr_fraction:
            return False
        bits = hashed(as_seeds(seeds[:1]), CONVERSION, np.zeros(1, np.uint64))
        return float(bits[0, 0] >> np.uint64(11)) * 2.0**-53 < self.simclr_fraction

    def _pixels(
        self,
        images: Sequence[Tensor] | Tensor,
        labels: Sequence[int],
        seeds: Sequence[int],
        layout: EpisodeLayout,
    ) -> Tensor:
        """Return all images as the network sees them, (T * (S + Q), C, H, W)."""
        if self.view is None or isinstance(images, Tensor):
            return evaluation_images(images, self.images)
        for number, image in enumerate(images):
            check_image(image, number, self.images)
        view, size = self.view, len(images) // len(layout.numbers)
        turned = chain.from_iterable(
            prepared(images[start : start + size], labels[start : start + size], seeds[start], view)
            for start in range(0, len(images), size)
        )
        return make_views(
            list(turned),
            as_seeds(seeds),
            Stream.GLOBAL_VIEWS,
            kind=view.kind(self.images.size),
            settings=view,
            spec=self.images,
        )
