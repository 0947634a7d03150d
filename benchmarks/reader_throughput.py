"""Reading images by index against webdataset's stream and torchvision's ImageFolder.

    python benchmarks/reader_throughput.py [--samples 4000] [--rounds 7]

All variants read the same generated JPEGs (64 px, about 2 KB) from the page cache on one thread.
They take turns within each round, so a busy machine slows all of them; the table gives the median
over rounds of CPU seconds per image and of the ratio to ImageFolder in the same round.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from torchvision.datasets import ImageFolder
from webdataset.writer import TarWriter

from data_shards.decode import decode_image
from data_shards.foreign import index_foreign
from data_shards.location import Location
from data_shards.order import ShuffledOrder
from data_shards.reader import Reader

BATCH = 64
SHARDS = 4
CLASSES = 20


def jpegs(count: int, side: int) -> list[bytes]:
    """Return smooth noise pictures, encoded."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG")
        images.append(stream.getvalue())
    return images


def prepare(root: Path, images: list[bytes]) -> None:
    """Write the images as class folders and as shards."""
    for number, image in enumerate(images):
        path = root / "folder" / f"{number % CLASSES:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    (root / "shards").mkdir()
    for shard in range(SHARDS):
        name = root / "shards" / f"train-{shard:06d}.tar"
        with name.open("wb") as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
            for number in range(shard, len(images), SHARDS):
                label = str(number % CLASSES).encode()
                tar.write({"__key__": f"{number:06d}", "jpg": images[number], "cls": label})


def variants(root: Path, count: int) -> dict[str, Callable[[], int]]:
    """Return functions that read everything once and return the number of images."""
    split = index_foreign(Location.parse(root / "shards")).split("base")
    order = ShuffledOrder(split.shard_sizes, seed=0)
    urls = [str(path) for path in sorted((root / "shards").glob("*.tar"))]
    reader, unverified = Reader(split), Reader(split, verify=False)
    folder = ImageFolder(str(root / "folder"), loader=_file_bytes)
    decoded_folder = ImageFolder(str(root / "folder"), loader=_pillow_file)
    steps = np.split(np.arange(count), range(BATCH, count, BATCH))
    shuffled = np.random.default_rng(0).permutation(count).tolist()

    def read(source: Reader, decode: bool = False, in_order: bool = False) -> int:
        done = 0
        for positions in steps:
            rows = positions if in_order else order.rows(0, positions)
            for image in source.read(rows):
                done += 1 if not decode else decode_image(image, "rgb", "").shape[0] // 3
        return done

    def stream(decode: bool = False) -> int:
        data = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).shuffle(1000)
        found = data.decode("rgb8") if decode else data
        return sum("jpg" in sample for sample in found)

    return {
        "ImageFolder, random, bytes": lambda: sum(len(folder[i]) == 2 for i in shuffled),
        "index, random, bytes, checksums": lambda: read(reader),
        "index, random, bytes": lambda: read(unverified),
        "index, in order, bytes": lambda: read(unverified, in_order=True),
        "webdataset + shuffle(1000), bytes": stream,
        "ImageFolder, random, decoded (Pillow)": lambda: sum(
            len(decoded_folder[i]) == 2 for i in shuffled
        ),
        "index, random, decoded, checksums": lambda: read(reader, decode=True),
        "webdataset + shuffle(1000), decoded": lambda: stream(decode=True),
    }


def _file_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _pillow_file(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def measure(
    functions: dict[str, Callable[[], int]], count: int, rounds: int
) -> dict[str, list[float]]:
    """Return CPU seconds per image of every variant and round, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            done = function()
            if done != count:
                raise RuntimeError(f"{name}: {done} of {count} images")
            if number:
                seconds[name].append((time.process_time() - start) / count)
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Return the figures as Markdown; ratios are to ImageFolder with the same amount of work."""
    lines = ["| reading | µs per image | times ImageFolder's speed |", "| --- | --- | --- |"]
    bases = {False: "ImageFolder, random, bytes", True: "ImageFolder, random, decoded (Pillow)"}
    for name, own in seconds.items():
        base = seconds[bases["decoded" in name]]
        ratio = statistics.median(b / o for b, o in zip(base, own, strict=True))
        lines.append(f"| {name} | {1e6 * statistics.median(own):.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        images = jpegs(args.samples, args.side)
        prepare(root, images)
        seconds = measure(variants(root, args.samples), args.samples, args.rounds)
    mean = sum(map(len, images)) / len(images)
    print(f"{args.samples} JPEGs of {args.side} px, {mean:.0f} bytes; {args.rounds} rounds\n")
    print(table(seconds))


if __name__ == "__main__":
    main()
