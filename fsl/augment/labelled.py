"""One view of each image with its class number, or two views: batches of whole images.

Their side is `images.size`. Pure: a function of (image, seed, class, class seed) for every image
alone, bit for bit, whichever images share its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsl.augment.config import GLOBAL_VIEWS, SingleViewConfig
from fsl.augment.draws import Stream, as_seeds, hashed
from fsl.augment.evaluation import check_image, evaluation_images
from fsl.augment.views import make_views, prepared
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.types import LabelledBatch, MultiViewBatch


class LabelledBatcher:
    """Decoded images -> `LabelledBatch`; a `fsl.batchers.Batcher`.

    Args:
        images: colour mode, normalisation and side of the views.
        view: settings of one random view; None gives the evaluation view.
        classes: number of classes C; labels beyond it are refused. None takes any label.
        turned_classes: turn each image by a multiple of 90 degrees, a function of its seed; the
            four turns of class c are the classes c, C + c, 2C + c and 3C + c.
    """

    def __init__(
        self,
        images: ImageSpec,
        view: SingleViewConfig | None = None,
        *,
        classes: int | None = None,
        turned_classes: bool = False,
    ) -> None:
        if turned_classes and classes is None:
            raise ConfigError("turned_classes: the number of classes is unknown; set classes")
        self.images, self.view = images, view
        self.classes, self.turned_classes = classes, turned_classes

    def __call__(
        self,
        images: Sequence[Tensor],
        labels: Sequence[int],
        seeds: Sequence[int],
        epoch: int,
        class_seed: int = 0,
    ) -> LabelledBatch:
        """Return one view of each image; see `fsl.batchers.Batcher`."""
        check_images(images, self.images)
        numbers = torch.as_tensor(labels, dtype=torch.int64)
        if self.classes is not None:
            _check_labels(numbers, self.classes)
            if self.turned_classes:
                turns = image_turns(as_seeds(seeds))
                images = [
                    torch.rot90(image, turn, (1, 2))
                    for image, turn in zip(images, turns.tolist(), strict=True)
                ]
                numbers = numbers + self.classes * torch.from_numpy(turns)
        if self.view is None:
            return LabelledBatch(evaluation_images(images, self.images), numbers)
        views = make_views(
            prepared(images, labels, class_seed, self.view),
            as_seeds(seeds),
            Stream.GLOBAL_VIEWS,
            kind=self.view.kind(self.images.size),
            settings=self.view,
            spec=self.images,
        )
        return LabelledBatch(views, numbers)


class TwoViewBatcher:
    """Decoded images -> `MultiViewBatch` of two views drawn alike, without local views and masks.

    A `fsl.batchers.Batcher`.

    Args:
        images: colour mode, normalisation and side of the views.
        view: settings of the views.
    """

    def __init__(self, images: ImageSpec, view: SingleViewConfig) -> None:
        self.images, self.view = images, view
        one = view.kind(images.size)
        self.kind = replace(
            one,
            views=GLOBAL_VIEWS,
            blur=GLOBAL_VIEWS * one.blur,
            solarise=GLOBAL_VIEWS * one.solarise,
        )

    def __call__(
        self,
        images: Sequence[Tensor],
        labels: Sequence[int],
        seeds: Sequence[int],
        epoch: int,
        class_seed: int = 0,
    ) -> MultiViewBatch:
        """Return two views of each image; see `fsl.batchers.Batcher`."""
        check_images(images, self.images)
        views = make_views(
            prepared(images, labels, class_seed, self.view),
            as_seeds(seeds),
            Stream.GLOBAL_VIEWS,
            kind=self.kind,
            settings=self.view,
            spec=self.images,
        )  # (2B, C, S, S)
        return MultiViewBatch(
            global_views=views,
            local_views=views[:0],
            masks=torch.zeros((len(views), 0, 0), dtype=torch.bool),
            labels=torch.as_tensor(labels, dtype=torch.int64),
            size=len(images),
        )


def check_images(images: Sequence[Tensor], spec: ImageSpec) -> None:
    """Raise an error a user understands unless there are images and all are as `spec` says."""
    if not images:
        raise ConfigError("a batch has no images; use fewer workers or a larger batch_size")
    for number, image in enumerate(images):
        check_image(image, number, spec)


def image_turns(seeds: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return 0..3 for every seed, (B,)."""
    bits = hashed(seeds, Stream.TURNS, np.zeros(1, dtype=np.uint64))[:, 0]
    return (bits >> np.uint64(62)).astype(np.int64)


def _check_labels(labels: Tensor, classes: int) -> None:
    largest = int(labels.max())
    if largest >= classes:
        raise ConfigError(
            f"classes: {classes}, but the split has a class of number {largest}, counted from 0; "
            "leave classes at null to take the number from the split"
        )
