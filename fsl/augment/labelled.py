"""One view of each image with its class number, for supervised methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fsl.augment.config import SingleViewConfig
from fsl.augment.draws import Stream, as_seeds
from fsl.augment.evaluation import check_image, evaluation_images
from fsl.augment.views import make_views, prepared
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.types import LabelledBatch


class LabelledBatcher:
    """Decoded images -> `LabelledBatch`; a `fsl.batchers.Batcher`.

    Args:
        images: colour mode, normalisation and side of the views.
        view: settings of one random view; None gives the evaluation view.
    """

    def __init__(self, images: ImageSpec, view: SingleViewConfig | None = None) -> None:
        self.images, self.view = images, view

    def __call__(
        self, images: Sequence[Tensor], labels: Sequence[int], seeds: Sequence[int], epoch: int
    ) -> LabelledBatch:
        """Return one view of each image; see `fsl.batchers.Batcher`."""
        if not images:
            raise ConfigError("a batch has no images; use fewer workers or a larger batch_size")
        classes = torch.as_tensor(labels, dtype=torch.int64)
        if self.view is None:
            return LabelledBatch(evaluation_images(images, self.images), classes)
        for number, image in enumerate(images):
            check_image(image, number, self.images)
        turned = prepared(images, labels, epoch, self.view)
        views = make_views(
            turned,
            as_seeds(seeds),
            Stream.GLOBAL_VIEWS,
            kind=self.view.kind(self.images.size),
            settings=self.view,
            spec=self.images,
        )
        return LabelledBatch(views, classes)
