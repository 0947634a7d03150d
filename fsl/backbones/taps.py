"""How the tensors inside of a backbone become maps of tokens; see `fsl.backbones.Tap`.

Letters in shapes: n images, C = D width, N = h x w cells, P tokens that are no cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, NoReturn

from torch import Tensor, nn

from fsl.backbones import Layers, Tap
from fsl.errors import ConfigError

Grid = tuple[int, int]
Cells = Callable[[Tensor], tuple[Tensor, Grid]]


def cells_of_map(x: Tensor) -> tuple[Tensor, Grid]:
    """Return the cells (n, N, D) and the grid (h, w) of maps (n, D, h, w)."""
    return x.flatten(2).mT, (x.shape[-2], x.shape[-1])


def cells_of_channels_last(x: Tensor) -> tuple[Tensor, Grid]:
    """Return the cells (n, N, D) and the grid (h, w) of maps (n, h, w, D)."""
    return x.flatten(1, 2), (x.shape[1], x.shape[2])


def cells_of_sequence(x: Tensor, grid: Callable[[], Grid], prefix: int = 1) -> tuple[Tensor, Grid]:
    """Return the cells (n, N, D) and the grid (h, w) of sequences (n, P + N, D).

    Args:
        x: tokens, cells last.
        grid: tells the grid of the pass that made them, which the sequence itself does not.
        prefix: P.
    """
    rows, columns = grid()
    cells = x[:, prefix:]
    assert cells.shape[1] == rows * columns, "a sequence of another pass than the grid"
    return cells, (rows, columns)


def map_taps(
    modules: Iterable[nn.Module], widths: Iterable[int], cells: Cells = cells_of_map
) -> tuple[Tap, ...]:
    """Return taps on modules that return maps of these widths D.

    Args:
        modules: in the order of the pass.
        widths: D of each.
        cells: takes the maps (n, D, h, w), or those of another layout, apart.
    """
    pairs = zip(modules, widths, strict=True)
    return tuple(Tap(module, "output", width, cells) for module, width in pairs)


def stage_taps(
    name: str, layers: Layers, stages: Iterable[nn.Module], widths: Iterable[int]
) -> tuple[Tap, ...]:
    """Return taps on the maps (n, D, h, w) after every stage, or on the last.

    Args:
        name: the backbone's.
        layers: which maps; this backbone does not tell its blocks.
        stages: modules that return a stage's map, in order.
        widths: D of each.
    """
    if layers == "blocks":
        no_such_layers(name, layers, ("last", "stages"))
    every = map_taps(stages, widths)
    return every if layers == "stages" else every[-1:]


def sequence_tap(
    module: nn.Module,
    place: Literal["input", "output"],
    features: int,
    grid: Callable[[], Grid],
) -> Tap:
    """Return a tap on tokens (n, 1 + N, D) whose first is the class token."""
    return Tap(module, place, features, partial(cells_of_sequence, grid=grid))


def no_such_layers(name: str, layers: Layers, known: Iterable[Layers]) -> NoReturn:
    """Raise the error of a backbone that has no maps of the kind asked for."""
    raise ConfigError(
        f"layers: {layers!r} is not what backbone {name!r} has; use {' or '.join(known)}"
    )


def pooled(taps: Iterable[Tap]) -> tuple[Tap, ...]:
    """Return the taps of a backbone whose maps the published recipe pools by two."""
    return tuple(tap._replace(pooled=True) for tap in taps)
