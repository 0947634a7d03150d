"""Toy batches and a tiny backbone, for tests and notebooks; `fsl.testing` re-exports them.

Each class is a random pattern, each image a pattern with noise: a few steps of training suffice.

Letters in shapes: T tasks, S support images, Q queries, W ways, B images, V views, C channels,
H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fsl.backbones import TokenBackbone
from fsl.backbones.vit import ViT, ViTConfig
from fsl.images import ImageSpec
from fsl.types import Episode, LabelledBatch, MultiViewBatch

TOY_IMAGES = ImageSpec(size=16)
"""Images of the toy batches: three channels, 16 pixels."""


def tiny_backbone(images: ImageSpec = TOY_IMAGES, seed: int = 0) -> TokenBackbone:
    """Return a two-block ViT of width 16, patch 4; equal seeds give equal weights."""
    config = ViTConfig(size="micro", width=16, depth=2, heads=2, patch=4, drop_path=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViT(config, images)


def toy_episode(
    *,
    tasks: int = 2,
    ways: int = 3,
    shots: int = 2,
    queries: int = 4,
    images: ImageSpec = TOY_IMAGES,
    seed: int = 0,
) -> Episode:
    """Return tasks of noisy class patterns, `queries` per class, in shuffled order."""
    generator = torch.Generator().manual_seed(seed)
    support: list[Tensor] = []
    support_labels: list[Tensor] = []
    query: list[Tensor] = []
    query_labels: list[Tensor] = []
    for _ in range(tasks):
        patterns = _patterns(ways, images, generator)  # (W, C, H, W)
        for count, pixels, labels in (
            (shots, support, support_labels),
            (queries, query, query_labels),
        ):
            chosen = torch.arange(ways).repeat(count)
            chosen = chosen[torch.randperm(len(chosen), generator=generator)]
            pixels.append(_noisy(patterns[chosen], generator))
            labels.append(chosen)
    return Episode(
        torch.stack(support),
        torch.stack(support_labels),
        torch.stack(query),
        torch.stack(query_labels),
        ways,
    )


def toy_labelled_batch(
    *, size: int = 8, classes: int = 3, images: ImageSpec = TOY_IMAGES, seed: int = 0
) -> LabelledBatch:
    """Return `size` noisy class patterns; image i has class i modulo `classes`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    return LabelledBatch(_noisy(_patterns(classes, images, generator)[labels], generator), labels)


def toy_multiview_batch(
    *,
    size: int = 4,
    classes: int = 2,
    global_views: int = 2,
    local_views: int = 2,
    local_size: int = 8,
    grid: tuple[int, int] = (4, 4),
    images: ImageSpec = TOY_IMAGES,
    seed: int = 0,
) -> MultiViewBatch:
    """Return views of `size` images; half of the global views hide three tenths of their cells.

    Image i has class i modulo `classes`. `grid` is the backbone's on the global views.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % classes
    pixels = _noisy(_patterns(classes, images, generator)[labels], generator)  # (B, C, H, W)
    local = pixels[..., :local_size, :local_size].repeat(local_views, 1, 1, 1)  # (Vl*B, C, h, w)
    masks = torch.rand((global_views * size, *grid), generator=generator) < 0.3
    masks[::2] = False
    return MultiViewBatch(
        _noisy(pixels.repeat(global_views, 1, 1, 1), generator),
        _noisy(local, generator) if local_views else local,
        masks,
        labels,
        size,
    )


def toy_decoded_images(
    *, classes: int = 3, per_class: int = 4, images: ImageSpec = TOY_IMAGES, seed: int = 0
) -> tuple[list[Tensor], list[int], list[int]]:
    """Return decoded images (uint8, sizes differ), their classes, and a seed each."""
    generator = torch.Generator().manual_seed(seed)
    labels = [label for label in range(classes) for _ in range(per_class)]
    sides = torch.randint(images.size, 2 * images.size, (len(labels), 2), generator=generator)
    pixels = [
        torch.randint(0, 256, (images.channels, *side), generator=generator, dtype=torch.uint8)
        for side in sides.tolist()
    ]
    return pixels, labels, [1000 + 7 * row for row in range(len(labels))]


def _patterns(count: int, images: ImageSpec, generator: torch.Generator) -> Tensor:
    return torch.randn(count, images.channels, images.size, images.size, generator=generator)


def _noisy(pixels: Tensor, generator: torch.Generator) -> Tensor:
    return pixels + 0.3 * torch.randn(pixels.shape, generator=generator)
