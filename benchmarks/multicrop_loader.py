"""How many images a core turns from JPEG bytes into 2 x 224 + 10 x 96 normalised views.

Compares our batcher with Pillow + torchvision.transforms, the chain of the published recipe, in
one process and one thread. The two take turns on the same images; the ratio is the median over
rounds of CPU time, so a busy machine moves both. Also times the warp path on small grey glyphs.

    OMP_NUM_THREADS=1 python benchmarks/multicrop_loader.py --images 24 --rounds 7
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision import transforms as T

from data_shards.decode import decode_image
from fsl.augment import AffineJitter, MultiCropBatcher, MultiCropConfig
from fsl.images import ImageSpec
from fsl.masking import BlockMaskConfig


def photographs(count: int, height: int = 375, width: int = 500) -> list[bytes]:
    """Return JPEGs whose spectrum falls like a photograph's; about 110 KB each."""
    rng = np.random.default_rng(0)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    fall = 1 / np.maximum(np.hypot(y, x), 1 / width) ** 1.1
    files = []
    for _ in range(count):
        noise = np.fft.fft2(rng.standard_normal((3, height, width))) * fall
        waves = np.fft.ifft2(noise).real
        waves = waves[:1] + 0.4 * waves  # channels that agree, as in nature
        pixels = 128 + 55 * (waves - waves.mean()) / waves.std()
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=92)
        files.append(buffer.getvalue())
    return files


class PillowBlur:
    """Gaussian blur as the published code does it."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image, or a changed copy."""
        if torch.rand(()).item() >= self.probability:
            return image
        radius = torch.empty(()).uniform_(0.1, 2.0).item()
        return image.filter(ImageFilter.GaussianBlur(radius))


class PillowSolarize:
    """Solarisation with a probability."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the image, or a changed copy."""
        return ImageOps.solarize(image) if torch.rand(()).item() < self.probability else image


def reference_views() -> list[Callable[[Image.Image], Tensor]]:
    """Return the twelve chains of the published recipe, in Pillow and torchvision."""

    def chain(size: int, scale: tuple[float, float], blur: float, solarize: float) -> T.Compose:
        return T.Compose(
            [
                T.RandomResizedCrop(size, scale, interpolation=T.InterpolationMode.BICUBIC),
                T.RandomHorizontalFlip(),
                T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                T.RandomGrayscale(0.2),
                PillowBlur(blur),
                PillowSolarize(solarize),
                T.ToTensor(),
                T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    large = [chain(224, (0.4, 1.0), 1.0, 0.0), chain(224, (0.4, 1.0), 0.1, 0.2)]
    return large + [chain(96, (0.05, 0.4), 0.5, 0.0)] * 10


def cpu_ms(call: Callable[[], object], images: int) -> float:
    """Return CPU milliseconds per image of one call."""
    start = time.process_time()
    call()
    return (time.process_time() - start) / images * 1e3


def compare_photographs(images: int, rounds: int) -> list[str]:
    """Return table rows: the reference, ours, ours without decoding, decoding alone."""
    files = photographs(images)
    chains = reference_views()
    batcher = MultiCropBatcher(
        MultiCropConfig(), BlockMaskConfig(), ImageSpec(), lambda size: (size // 16, size // 16)
    )
    seeds, labels = list(range(images)), [0] * images

    def reference() -> object:
        opened = (Image.open(io.BytesIO(data)).convert("RGB") for data in files)
        views = [[chain(image) for chain in chains] for image in opened]
        return [torch.stack(view) for view in zip(*views, strict=True)]

    def decode() -> list[Tensor]:
        return [decode_image(data, "rgb", "benchmark") for data in files]

    def ours() -> object:
        return batcher(decode(), labels, seeds, 0)

    decoded = decode()
    parts: dict[str, Callable[[], object]] = {
        "Pillow + torchvision": reference,
        "ours": ours,
        "ours, already decoded": lambda: batcher(decoded, labels, seeds, 0),
        "decoding alone": decode,
    }
    times = take_turns(parts, images, rounds)
    size = sum(map(len, files)) / images / 1e3
    rows = [
        f"2 x 224 + 10 x 96 from {images} JPEGs of 500 x 375 ({size:.0f} KB), {rounds} rounds:",
        "",
        "| pipeline | ms CPU per image | images/s/core | ratio: median (lowest-highest) |",
        "| --- | --- | --- | --- |",
    ]
    base = times["Pillow + torchvision"]
    for name, taken in times.items():
        ratios = sorted(a / b for a, b in zip(base, taken, strict=True))
        middle = statistics.median(taken)
        rows.append(
            f"| {name} | {middle:.2f} | {1e3 / middle:.0f} | "
            f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}-{ratios[-1]:.1f}) |"
        )
    return rows


def time_glyphs(images: int, rounds: int) -> list[str]:
    """Return table rows for 2 x 32 + 4 x 16 views of 28-pixel grey images."""
    rng = torch.Generator().manual_seed(0)
    glyphs = [torch.randint(0, 256, (1, 28, 28), generator=rng).byte() for _ in range(images)]
    seeds, labels = list(range(images)), [0] * images
    crops = MultiCropConfig(
        global_size=32,
        local_size=16,
        local_views=4,
        flip=0,
        affine=AffineJitter(rotation=15, shear=0.2, translate=0.1, scale=0.2, stroke=2),
    )
    plain = crops.model_copy(update={"global_blur": (0.0, 0.0), "local_blur": 0.0, "solarize": 0.0})
    spec = ImageSpec(mode="grey", size=32)

    def batcher(settings: MultiCropConfig) -> Callable[[], object]:
        made = MultiCropBatcher(settings, None, spec, lambda size: (size // 8, size // 8))
        return lambda: made(glyphs, labels, seeds, 0)

    parts = {"all steps": batcher(crops), "no blur, no solarise": batcher(plain)}
    times = take_turns(parts, images, rounds)
    return [
        f"2 x 32 + 4 x 16 warped views of {images} grey 28-pixel images, {rounds} rounds:",
        "",
        "| settings | microseconds CPU per image: median (lowest-highest) |",
        "| --- | --- |",
        *(
            f"| {name} | {1e3 * statistics.median(t):.0f} ({1e3 * min(t):.0f}-{1e3 * max(t):.0f}) |"
            for name, t in times.items()
        ),
    ]


def take_turns(
    parts: dict[str, Callable[[], object]], images: int, rounds: int
) -> dict[str, list[float]]:
    """Return CPU ms per image of every part in every round, after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, call in parts.items():
            taken = cpu_ms(call, images)
            if number > 0:
                times[name].append(taken)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=24, help="images per batch")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, "
        f"NumPy {np.__version__}, {platform.machine()}, one thread\n"
    )
    print("\n".join(compare_photographs(arguments.images, arguments.rounds)), end="\n\n")
    print("\n".join(time_glyphs(128, arguments.rounds)))


if __name__ == "__main__":
    main()
