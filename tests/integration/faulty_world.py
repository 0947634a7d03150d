"""A small world in which everything is right, and tools to plant faults into it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image

from data_shards.manifest import METADATA_KEY
from pipelines.cli import main
from pipelines.commands import load
from pipelines.runner import plan

CLASSES = {"base": ["ant", "bee", "cow", "dog"], "val": ["elk", "fox"], "novel": ["gnu", "hen"]}
IMAGES = 6

RECIPE: dict[str, Any] = {
    "run_dir": "run",
    "stages": {
        "shards": {"kind": "write_shards", "source": {"name": "folder", "root": "images"}},
        "pretrain": {
            "kind": "train",
            "needs": ["shards"],
            "images": {"mode": "rgb", "normalisation": "half", "size": 16},
            "backbone": {"name": "conv4", "width": 8, "pool": "mean"},
            "method": {
                "name": "masked_distillation",
                "crops": {"global_size": 16, "local_size": 8, "local_views": 2},
            },
            "data": {"batch_size": 8},
            "optim": {"epochs": 2, "warmup_epochs": 1},
            "validation": {"ways": 2, "shots": 1, "queries": 2, "tasks": 4},
        },
    },
}


@dataclass
class World:
    """A directory with `images/`, `recipe.yaml` and `run/`, in which the shards are done.

    Attributes:
        root: the current directory of the command.
        shards: directory of the finished stage.
        recipe: what `recipe.yaml` will hold; faults change it.
        argv: the command line.
    """

    root: Path
    shards: Path
    recipe: dict[str, Any]
    argv: list[str] = field(default_factory=lambda: ["run", "recipe.yaml"])

    @property
    def stages(self) -> dict[str, Any]:
        """The recipe's stages."""
        stages: dict[str, Any] = self.recipe["stages"]
        return stages

    def set(self, key: str, value: Any) -> None:
        """Change one setting of the recipe, by its dotted key."""
        *parents, last = key.split(".")
        node = self.recipe
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value

    def write_recipe(self) -> None:
        """Write `recipe.yaml`, unless a fault has put something else there."""
        path = self.root / "recipe.yaml"
        if not path.exists():
            path.write_text(yaml.safe_dump(self.recipe, sort_keys=False))

    def results(self) -> dict[str, str]:
        """Return a checksum of every file that an earlier run finished."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.shards.rglob("*"))
            if path.is_file()
        }


def image(path: Path, seed: int) -> None:
    """Write one small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_world(root: Path) -> None:
    """Make images and a run in which the stage `shards` is done."""
    number = 0
    for split, names in CLASSES.items():
        for name in names:
            for i in range(IMAGES):
                image(root / "images" / split / name / f"{i}.png", number)
                number += 1
    only = {"run_dir": "run", "stages": {"shards": RECIPE["stages"]["shards"]}}
    path = root / "shards.yaml"
    path.write_text(yaml.safe_dump(only))
    assert main(["run", str(path)]) == 0


def copy_world(source: Path, root: Path) -> World:
    """Return a copy of a world for one fault."""
    shutil.copytree(source, root, dirs_exist_ok=True)
    (shards,) = (root / "run").glob("shards-*")
    return World(root, shards, json.loads(json.dumps(RECIPE)))


def use_void(world: World) -> None:
    """Let the recipe read an empty folder."""
    (world.root / "void").mkdir()
    world.set("stages.shards.source.root", "void")


def truncate(path: Path) -> None:
    """Cut a file in the middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path: Path, old: str, new: str) -> None:
    """Replace some text of a file."""
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def use_damaged(world: World, damage: Callable[[Path], object]) -> None:
    """Let the recipe use a copy of the shard set whose index is damaged."""
    copy = world.root / "copy"
    shutil.copytree(world.shards, copy)
    damage(copy / "index.parquet")
    world.set("stages.shards", {"kind": "use_shards", "path": "copy"})


def raise_format(index: Path) -> None:
    """Make the index one of a later program."""
    table = pq.read_table(index)
    metadata = {**table.schema.metadata}
    metadata[METADATA_KEY] = metadata[METADATA_KEY].replace(b'"format": 1', b'"format": 7')
    assert metadata != table.schema.metadata
    pq.write_table(table.replace_schema_metadata(metadata), index)


def evaluate_damaged(world: World, damage: Callable[[Path], object]) -> None:
    """Let the recipe evaluate raw pixels on a copy of the shards, one of which is damaged."""
    shutil.copytree(world.shards, world.root / "copy")
    damage(world.root / "copy/novel/novel-000000.tar")
    world.set("stages.shards", {"kind": "use_shards", "path": "copy"})
    evaluate(world, {})


def flip(path: Path) -> None:
    """Change one byte in the middle of the first image of a shard."""
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 1
    path.write_bytes(data)


def attempt(world: World, name: str, content: object) -> None:
    """Put a file into the directory of an interrupted training of this recipe."""
    world.write_recipe()
    out = plan(load(world.root / "recipe.yaml", []))["pretrain"].path.local
    assert out is not None
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text(json.dumps(content))


def evaluate(world: World, settings: Mapping[str, object]) -> None:
    """Let the recipe evaluate raw pixels instead of training."""
    del world.stages["pretrain"]
    simple = {"needs": ["shards"], "ways": 2, "shots": [1], "queries": 1, "tasks": 4}
    world.set(
        "stages.evaluate", {"kind": "evaluate", "baselines": ["pixels"], **simple, **settings}
    )
