"""The DRLoc head against the plain one: forward and backward, over grids, pairs and widths.

    python benchmarks/drloc_head.py [--rounds 7] [--images 32] [--only K M C]

Plain is the head as it is usually written: both members of every pair are indexed, laid next to
each other and put through three linear layers. Ours is `LocationRegressor`; `project` and `gather`
are its two ways through the first layer, of which it takes the one marked *. All give the
gradients of the head and of the features. Run in turns on one thread after a round that does not
count; CPU time; ratios are medians over pairs of runs, below 1 is faster than plain.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from fsl.losses.relative_location import location_l1, location_targets, random_pairs
from fsl.modules import relative_location_head
from fsl.modules.relative_location_head import (
    LocationRegressor,
    gather_then_project,
    project_then_gather,
    projects_first,
)

SIDES, PAIRS, WIDTHS = (4, 7, 14), (16, 64, 256), (192, 768)
Layer = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def plain_layer(tokens: Tensor, pairs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Both members (B, M, 2C), then the first linear layer."""
    images = torch.arange(len(tokens))[:, None]
    first, second = (tokens[images, pairs[..., member]] for member in range(2))
    return F.linear(torch.cat([first, second], -1), weight, bias)


LAYERS: dict[str, Layer] = {
    "plain": plain_layer,
    "project": project_then_gather,
    "gather": gather_then_project,
}


class Case:
    """A head, features and pairs of one setting."""

    def __init__(self, images: int, side: int, pairs: int, width: int) -> None:
        torch.manual_seed(0)
        self.grid = (side, side)
        self.head = LocationRegressor(width)
        self.tokens = torch.randn(images, side**2, width, requires_grad=True)
        self.pairs = random_pairs(images, pairs, self.grid)
        self.ours = "project" if projects_first(side**2, pairs, width) else "gather"

    def step(self, layer: Layer) -> float:
        """CPU seconds of a forward and backward pass."""
        setattr(relative_location_head, "pair_linear", layer)  # noqa: B010 (mypy)
        before = time.process_time()
        predictions = self.head(self.tokens, self.pairs)
        loss = location_l1(predictions, location_targets(self.pairs, self.grid))
        torch.autograd.grad(loss, [self.tokens, *self.head.parameters()])
        return time.process_time() - before

    def row(self, rounds: int) -> str:
        """Milliseconds and ratios as cells of a table, ours marked."""
        for layer in LAYERS.values():
            self.step(layer)
        seconds: dict[str, list[float]] = {name: [] for name in LAYERS}
        for _ in range(rounds):
            for name, layer in LAYERS.items():
                seconds[name].append(self.step(layer))

        def ratio(name: str) -> float:
            pairs = zip(seconds[name], seconds["plain"], strict=True)
            return statistics.median(spent / plain for spent, plain in pairs)

        cells = [f"{1000 * statistics.median(seconds[name]):.1f}" for name in ("plain", self.ours)]
        cells.append(f"{ratio(self.ours):.2f}")
        for name in ("project", "gather"):
            cells.append(f"{ratio(name):.2f}{'*' if name == self.ours else ''}")
        return " | ".join(cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--only", nargs=3, type=int, metavar=("K", "M", "C"), help="one row")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"B = {arguments.images}, D = 512, float32, torch {torch.__version__}, Python "
        f"{platform.python_version()}; {arguments.rounds} rounds\n"
    )
    print("| k | m | C | plain ms | ours ms | ours/plain | project | gather |")
    print("|---" * 8 + "|")
    rows = [arguments.only] if arguments.only else product(SIDES, PAIRS, WIDTHS)
    for side, pairs, width in rows:
        row = Case(arguments.images, side, pairs, width).row(arguments.rounds)
        print(f"| {side} | {pairs} | {width} | {row} |", flush=True)


if __name__ == "__main__":
    main()
