"""Decoded images of splits by row, read from the shards or kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_shards.decode import decode_image
from data_shards.manifest import Split
from data_shards.reader import Reader


class Store(Protocol):
    """Images, or feature vectors as images of one pixel, by row."""

    def images(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """Return the images of `rows`, each (C, H, W)."""


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

    def images(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """Return the images of `rows`, each (C, H, W)."""
        owner = np.searchsorted(self.starts, rows, "right") - 1
        found: dict[int, Tensor] = {}
        for number in np.unique(owner).tolist():
            places = np.flatnonzero(owner == number)
            images = self.stores[number].images(rows[places] - self.starts[number])
            found.update(zip(places.tolist(), images, strict=True))
        return [found[place] for place in range(len(rows))]
