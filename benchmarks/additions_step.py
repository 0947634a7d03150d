"""What DRLoc adds to a step of Swin-T, and BatchFormer to a step of ResNet-18.

    python benchmarks/additions_step.py [--rounds 7] [--batch 16]

Forward, backward and AdamW step of supervised training on random images, with and without the
addition, one torch thread, CPU seconds. Rounds are interleaved; the figure is the median of the
rounds' ratios, with its extremes. 100 classes; Swin-T at 224 pixels, ResNet-18 at 112.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from fsl.additions import AnyAdditions
from fsl.backbones import AnyBackboneConfig, build_backbone
from fsl.config import Section, build
from fsl.images import ImageSpec
from fsl.method import AnyMethodConfig, build_method
from fsl.types import LabelledBatch, Progress

CASES: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "DRLoc on Swin-T, 224 px": ({"name": "swin", "size": "tiny"}, 224, {"drloc": {}}),
    "BatchFormer on ResNet-18, 112 px": ({"name": "resnet", "depth": 18}, 112, {"batchformer": {}}),
}


class Recipe(Section):
    """One training."""

    method: AnyMethodConfig
    backbone: AnyBackboneConfig
    additions: AnyAdditions = {}  # noqa: RUF012


def stepper(
    backbone: dict[str, Any], size: int, additions: dict[str, Any], batch: int
) -> Callable[[], None]:
    """Return a function that takes one training step."""
    torch.manual_seed(0)
    images = ImageSpec(size=size, resize=size)
    method = {"name": "supervised", "classes": 100, "classifier": "linear"}
    tree = {"method": method, "backbone": backbone, "additions": additions}
    recipe = build(Recipe, tree)
    whole = build_method(recipe.method, build_backbone(recipe.backbone, images))
    whole.attach(recipe.additions, images)
    optimizer = torch.optim.AdamW(whole.parameters(), 1e-4)
    pixels, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % 100
    whole.begin_step(Progress(100, 1000, 4))

    def step() -> None:
        optimizer.zero_grad()
        whole(LabelledBatch(pixels, labels)).loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Return the CPU seconds of one step."""
    begun = time.process_time()
    step()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'case':34} {'plain s':>8} {'ratio':>6}  from .. to")
    for name, (backbone, size, additions) in CASES.items():
        plain = stepper(backbone, size, {}, args.batch)
        riding = stepper(backbone, size, additions, args.batch)
        seconds(plain), seconds(riding)  # the first step allocates
        pairs = [(seconds(plain), seconds(riding)) for _ in range(args.rounds)]
        ratios = sorted(after / before for before, after in pairs)
        base = median(before for before, _ in pairs)
        print(f"{name:34} {base:8.2f} {median(ratios):6.3f}  {ratios[0]:.3f} .. {ratios[-1]:.3f}")


if __name__ == "__main__":
    main()
