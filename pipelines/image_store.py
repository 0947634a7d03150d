"""Decoded images of splits by row, read from the shards or kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_shards.decode import decode_image
from data_shards.features import FeatureSplit
from data_shards.manifest import Split
from data_shards.reader import Reader

Images: TypeAlias = list[Tensor] | Tensor
"""Decoded images, uint8 (C, H, W) each; or feature vectors in one tensor, (B, D, 1, 1) float32."""


class Store(Protocol):
    """Images, or feature vectors as images of one pixel, by row."""

    def images(self, rows: NDArray[np.int64]) -> Images:
        """Return the images of `rows`."""


class VectorStore:
    """Feature vectors as images of one pixel."""

    def __init__(self, split: FeatureSplit) -> None:
        self.split = split

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the vectors of `rows`, (B, D, 1, 1) float32."""
        return torch.from_numpy(self.split.vectors()[rows])[..., None, None]


class ImageStore:
    """Decoded images of a split by row, read from the shards or kept in memory."""

    def __init__(self, split: Split, mode: str, keep: bool = False) -> None:
        self.split, self.mode = split, mode
        self.reader = Reader(split)
        self.pixels: Tensor | None = None  # all images, one after the other
        if keep:
            self._fill()

    def images(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """Return the images of `rows`, each (C, H, W) uint8."""
        if self.pixels is None:
            return self._decode(rows)
        return [self._kept(int(row)) for row in rows]

    def _decode(self, rows: NDArray[np.int64]) -> list[Tensor]:
        payloads = self.reader.read(rows)
        return [
            decode_image(payload, self.mode, self.reader.where(int(row)))  # type: ignore[arg-type]
            for payload, row in zip(payloads, rows, strict=True)
        ]

    def _fill(self) -> None:
        """Decode everything once; torch shares the memory with loader processes."""
        images = self._decode(np.arange(len(self.split)))
        self.shapes = [tuple(image.shape) for image in images]
        self.starts = np.cumsum([0, *(image.numel() for image in images)])
        pixels = torch.cat([image.flatten() for image in images])
        self.pixels = pixels.share_memory_()  # type: ignore[no-untyped-call]

    def _kept(self, row: int) -> Tensor:
        assert self.pixels is not None
        return self.pixels[self.starts[row] : self.starts[row + 1]].view(self.shapes[row])


class PooledStore:
    """Several stores, their rows one after the other.

    Args:
        stores: the stores.
        starts: first row of each.
    """

    def __init__(self, stores: Sequence[Store], starts: NDArray[np.int64]) -> None:
        self.stores, self.starts = stores, starts

    def images(self, rows: NDArray[np.int64]) -> Images:
        """Return the images of `rows`."""
        owner = np.searchsorted(self.starts, rows, "right") - 1
        places = [np.flatnonzero(owner == number) for number in range(len(self.stores))]
        parts = [
            store.images(rows[place] - start)
            for store, place, start in zip(self.stores, places, self.starts, strict=True)
            if len(place)
        ]
        back = np.argsort(np.concatenate(places))
        if isinstance(parts[0], Tensor):
            return torch.cat([torch.as_tensor(part) for part in parts])[torch.from_numpy(back)]
        images = [image for part in parts for image in part]
        return [images[place] for place in back.tolist()]


def open_store(
    split: Split | FeatureSplit, mode: str, keep: bool = False
) -> ImageStore | VectorStore:
    """Return the images, or feature vectors, of a split.

    Args:
        split: of a shard set or of a feature set.
        mode: colours of images.
        keep: hold all decoded images in memory.
    """
    return VectorStore(split) if isinstance(split, FeatureSplit) else ImageStore(split, mode, keep)
