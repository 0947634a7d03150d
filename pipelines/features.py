"""Features of images of a split, computed once per checkpoint and kept in a file.

The file's name is a digest of the weights, the data, the split, its rows and how images are
prepared: a file that is there holds the right features, and one that was cut short or edited is
made anew, which the digest of the numbers in it shows.

Letters: N images, D features, S side of a pixel image, *F what is kept of an image.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from tqdm import tqdm

from data_shards.features import FeatureSplit
from data_shards.location import Location
from data_shards.manifest import Split
from fsl.config import digest
from fsl.images import ImageSpec
from fsl.method import Method
from pipelines.image_store import Store, open_store
from pipelines.loader_processes import in_order
from pipelines.memory import lack_explained
from pipelines.model import LoadedModel
from pipelines.validation import ImageChunks

logger = logging.getLogger(__name__)

FORMAT = 2
PIXEL_SIDE = 14
"""Side of the pictures whose pixels are the baseline. Chosen, among about 28 preparations looked at
on Omniglot's novel split, to agree with the figures given for raw pixels there (44.8 / 24.0); it is
not the strongest: 7 pixels gave up to 51.7 % 5-way 1-shot."""


class Part(NamedTuple):
    """Images of a split, or rows of a feature table.

    Attributes:
        split: whose.
        rows: their numbers, (N,) ascending.
    """

    split: Split | FeatureSplit
    rows: NDArray[np.int64]

    @classmethod
    def whole(cls, split: Split | FeatureSplit) -> Part:
        """All of a split."""
        return cls(split, np.arange(len(split), dtype=np.int64))

    def identity(self) -> dict[str, str]:
        """What features depend on: the data, or one table of its features among others; rows."""
        split = self.split
        whole = split.feature_set if isinstance(split, FeatureSplit) else split.shard_set
        found = {"data": whole.digest, "split": split.name}
        if len(self.rows) < len(split):
            found["rows"] = hashlib.sha256(self.rows.astype("<i8").tobytes()).hexdigest()
        return found


def model_features(
    model: LoadedModel,
    part: Part,
    cache: Location,
    *,
    batch_size: int,
    loader_workers: int = 0,
    what: Literal["embed", "encode"] = "embed",
) -> Tensor:
    """Return what a trained method makes of each image, from `cache` if it is there.

    Args:
        model: the method and how images look to it.
        part: the images.
        cache: directory of the file.
        batch_size: images per forward pass.
        loader_workers: processes that decode.
        what: `embed` for features (N, D), `encode` for what the method's own classifier needs,
            (N, *F).
    """
    if type(model.method).encode is Method.encode:
        what = "embed"  # one file for both

    def compute() -> Tensor:
        answer = getattr(model.method, what)
        return asked(model, part, answer, batch_size=batch_size, loader_workers=loader_workers)

    identity = {"weights": model.digest, "what": what}
    return _cached(cache, identity, part, model.images, compute)


def asked(
    model: LoadedModel,
    part: Part,
    what: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    loader_workers: int = 0,
) -> Tensor:
    """Return what a function of the model's method makes of images, (N, *F)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.method.to(device).eval()
    batches = prepared_batches(part, model.images, batch_size, loader_workers)
    return computed(what, batches, device)


def pixel_features(part: Part, images: ImageSpec, cache: Location, batch_size: int) -> Tensor:
    """Return the pixels of small pictures (N, C*S*S), mean brightness subtracted per image.

    What a classifier that learnt nothing sees. Without the subtraction the similarity of two
    pictures would mostly be that of their backgrounds.

    Args:
        part: the images.
        images: how a network would see them.
        cache: directory of the file.
        batch_size: images prepared together.
    """
    side = 2 * PIXEL_SIDE
    small = images.model_copy(update={"size": side, "resize": side})
    mean, std = (values[:, None, None] for values in small.statistics())

    def compute() -> Tensor:
        parts = [
            F.avg_pool2d(chunk * std + mean, 2).flatten(1)
            for chunk in prepared_batches(part, small, batch_size, 0)
        ]
        pixels = torch.cat(parts)
        return pixels - pixels.mean(1, keepdim=True)

    return _cached(cache, {"weights": "pixels"}, part, small, compute)


@torch.no_grad()
def _cached(
    cache: Location,
    identity: dict[str, str],
    part: Part,
    images: ImageSpec,
    compute: Callable[[], Tensor],
) -> Tensor:
    key = digest(
        {
            "format": FORMAT,
            "images": images.model_dump(mode="json"),
            **part.identity(),
            **identity,
        }
    )
    place = cache / f"{part.split.name}-{key[:16]}.safetensors"
    if place.exists():
        kept = _unchanged(place.read_bytes(), key)
        if kept is not None:
            return kept
        logger.warning("%s: damaged, computing the features again", place)
    with torch.no_grad():
        features = compute().contiguous()
    cache.make_dir()
    place.write_bytes(save({"features": features}, _notes(key, features)))
    return features


def _unchanged(content: bytes, key: str) -> Tensor | None:
    """Return the features of a file as they were written under `key`, else None."""
    try:
        features = load(content)["features"]
    except (SafetensorError, KeyError):
        return None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return features if header.get("__metadata__") == _notes(key, features) else None


def _notes(key: str, features: Tensor) -> dict[str, str]:
    return {"key": key, "sha256": hashlib.sha256(features.numpy().data).hexdigest()}


@torch.no_grad()
def computed(
    function: Callable[[Tensor], Tensor], batches: Iterable[Tensor], device: torch.device
) -> Tensor:
    """Return what `function` makes of batches of images on `device`, (N, *F) float32 here.

    Raises:
        OutOfMemoryError: a batch is too large for the device.
    """

    def answer(images: Tensor) -> Tensor:
        with lack_explained(lambda: f"lower batch_size (a batch here had {len(images)} images)"):
            return function(images.to(device)).float().cpu()

    return torch.cat([answer(images) for images in batches])


def image_batches(
    store: Store,
    rows: NDArray[np.int64],
    images: ImageSpec,
    batch_size: int,
    loader_workers: int,
) -> Iterator[Tensor]:
    """Yield the images of `rows` in their order, as a network sees them, (n, C, H, W) each."""
    chunks = ImageChunks(store, rows, images, batch_size)
    return in_order(chunks, range(len(chunks)), loader_workers)


def prepared_batches(
    part: Part, images: ImageSpec, batch_size: int, loader_workers: int
) -> tqdm[Tensor]:
    """Yield images in row order, with a progress bar."""
    store = open_store(part.split, images.mode)
    batches = image_batches(store, part.rows, images, batch_size, loader_workers)
    return tqdm(
        batches,
        desc=f"features of {part.split.name}",
        total=-(-len(part.rows) // batch_size),
        unit="batch",
        disable=None,
        leave=False,
    )
