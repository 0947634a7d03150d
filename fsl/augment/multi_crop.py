"""Multi-crop (Caron et al., NeurIPS 2020): decoded images -> `MultiViewBatch`, masks included.

Pure: a function of (image, seed, class, class seed, epoch) for every image alone, bit for bit,
whichever images share its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsl.augment.config import GLOBAL_VIEWS, MultiCropConfig
from fsl.augment.draws import Stream, as_seeds, derived_seeds
from fsl.augment.evaluation import check_image
from fsl.augment.views import make_views, prepared
from fsl.errors import ConfigError
from fsl.images import ImageSpec
from fsl.masking import BlockMaskConfig, block_masks
from fsl.types import MultiViewBatch


class MultiCropBatcher:
    """Makes global and local views and masks of each image; a `fsl.batchers.Batcher`.

    Args:
        crops: the settings of the views.
        masks: the settings of the global views' masks; None masks nothing.
        images: colour mode and normalisation. The view sizes are those of `crops`.
        grid_of: `grid_of(size)` is the backbone's patch grid (h, w). Asked here and not kept; it
            refuses view sizes that the backbone cannot take. None for a backbone without
            patches, which cannot be masked: the grid of the masks is then (0, 0).
    """

    def __init__(
        self,
        crops: MultiCropConfig,
        masks: BlockMaskConfig | None,
        images: ImageSpec,
        grid_of: Callable[[int], tuple[int, int]] | None,
    ) -> None:
        self.crops, self.masks, self.images = crops, masks, images
        if grid_of is None and masks is not None:
            raise ConfigError("masks are set, but the backbone has no patches; set masks to null")
        self.grid = grid_of(crops.global_size) if grid_of else (0, 0)
        if grid_of and crops.local_views:
            grid_of(crops.local_size)
        self.kinds = (
            (Stream.GLOBAL_VIEWS, crops.global_kind()),
            (Stream.LOCAL_VIEWS, crops.local_kind()),
        )

    def __call__(
        self,
        images: Sequence[Tensor],
        labels: Sequence[int],
        seeds: Sequence[int],
        epoch: int,
        class_seed: int = 0,
    ) -> MultiViewBatch:
        """Return the views of a batch; see `fsl.batchers.Batcher`."""
        if not images:
            raise ConfigError("a batch has no images; use fewer workers or a larger batch_size")
        for number, image in enumerate(images):
            check_image(image, number, self.images)
        keys = as_seeds(seeds)
        turned = prepared(images, labels, class_seed, self.crops)
        global_views, local_views = (
            make_views(turned, keys, stream, kind=kind, settings=self.crops, spec=self.images)
            for stream, kind in self.kinds
        )
        return MultiViewBatch(
            global_views=global_views,
            local_views=local_views,
            masks=self._masks(keys, epoch),
            labels=torch.as_tensor(labels, dtype=torch.int64),
            size=len(images),
        )

    def _masks(self, seeds: NDArray[np.uint64], epoch: int) -> Tensor:
        """Return the masks of the global views, view-major, bool (Vg*B, h, w)."""
        count = GLOBAL_VIEWS * len(seeds)
        if self.masks is None:
            return torch.zeros((count, *self.grid), dtype=torch.bool)
        per_view = derived_seeds(seeds, Stream.MASKS, GLOBAL_VIEWS).T.reshape(-1)
        return block_masks(per_view.tolist(), *self.grid, self.masks, epoch)
