"""DRLoc and BatchFormer on CIFAR-10: with and without, over seeds, image by image.

    python benchmarks/cifar10_additions.py --data FOLDER [--tables drloc long_tail ...]
                                           [--seeds 0 1 2] [--keep DIR]

Each recipe is run once per seed, without Ray, with one torch thread, in a directory of its own;
what is done is skipped. The tables are of accuracies on the 10,000 test images, mean over seeds,
and of the difference to the first network of the recipe: its interval over images (each image
counts with its mean over seeds), and one over trainings (Student's t over the seeds' differences),
which is the one that says what another training would give. `--keep` copies summaries and answers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from scipy.stats import t as student

ROOT = Path(__file__).parents[1]
KEPT = ("config.json", "result.json", "summary.json", "answers.parquet")


class Run(NamedTuple):
    """Some networks of a recipe, and what is changed in each of them."""

    recipe: str
    networks: tuple[str, ...]
    changes: Mapping[str, object] = {}


TWO = ("plain", "shared")
RUNS = {
    "drloc": Run("cifar10_drloc", ("plain", "drloc")),
    "drloc_cvt": Run("cifar10_drloc", ("plain", "drloc"), {"backbone.name": "cvt"}),
    "long_tail": Run("cifar10_lt", (*TWO, "unshared")),
    **{
        f"batch_{size}": Run("cifar10_lt", TWO, {"data.batch_size": size, "optim.epochs": 10})
        for size in (32, 128, 512)
    },
}


def run(run: Run, seed: int, data: Path, out: Path) -> None:
    """Run the recipe, with these networks only, with one seed."""
    recipe = yaml.safe_load((ROOT / f"recipes/{run.recipe}.yaml").read_text(encoding="utf-8"))
    asked = recipe["stages"]["classify"]
    for label in {*asked["needs"]} - {*run.networks, "shards"}:
        del recipe["stages"][label]
        asked["needs"].remove(label)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    changes = [
        f"stages.{label}.{key}={value}"
        for label in run.networks
        for key, value in {"cluster.launcher": "local", **run.changes}.items()
    ]
    subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", str(out / "recipe.yaml"),
         f"seed={seed}", f"run_dir={out}", f"name={out.name}",
         f"stages.shards.source.root={data}", "stages.shards.seed=0", *changes],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def keep(out: Path, data: Path, folder: Path) -> None:
    """Copy settings, results and answers of a run; the data's place is not told."""
    for path in out.glob("*/*"):
        if path.name in KEPT and "shards-" not in path.parent.name:
            copy = folder / out.name / path.parent.name / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes().replace(str(data).encode(), b"FOLDER"))


def answers(out: Path) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.int32]]:
    """Return of each model whether it knew each image, and the images' classes."""
    (path,) = out.glob("classify-*/answers.parquet")
    table = pq.read_table(path).to_pydict()
    names = np.array(table["model"])
    correct = np.array(table["predicted"]) == np.array(table["label"])
    first = names == names[0]
    labels = np.array(table["label"], np.int32)[first]
    return {str(name): correct[names == name] for name in dict.fromkeys(table["model"])}, labels


def groups(out: Path) -> dict[str, dict[str, float]]:
    """Return model -> many, medium, few -> accuracy, where there is a long tail."""
    (path,) = out.glob("classify-*/summary.json")
    results: list[dict[str, Any]] = json.loads(path.read_text())["results"]
    return {entry["model"]: entry["groups"] for entry in results if len(entry["groups"]) > 1}


def percent(mean: float, half_width: float, sign: str = "") -> str:
    return f"{100 * mean:{sign}.1f} ± {100 * half_width:.1f}"


def table(places: list[Path]) -> list[str]:
    """Return a Markdown table of the same run with several seeds."""
    found = [answers(place)[0] for place in places]
    parts = [groups(place) for place in places]
    first, *_ = found[0]
    kinds = list(next(iter(parts[0].values()), {}))
    head = [
        "network",
        "accuracy",
        "seeds",
        *kinds,
        f"− {first}, ± images",
        "± trainings",
        "by seed",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in found[0]:
        correct = np.stack([of_seed[name] for of_seed in found]).astype(float)  # (seeds, images)
        gain = correct - np.stack([of_seed[first] for of_seed in found])
        cells = [name, percent(correct.mean(), interval(correct.mean(0))), str(len(found))]
        cells += [f"{100 * np.mean([part[name][kind] for part in parts]):.1f}" for kind in kinds]
        if name == first:
            cells += ["", "", ""]
        else:
            by_seed = gain.mean(1)
            cells += [
                percent(gain.mean(), interval(gain.mean(0)), "+"),
                f"{100 * trainings(by_seed):.1f}",
                ", ".join(f"{100 * value:+.1f}" for value in by_seed),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def interval(values: NDArray[np.float64]) -> float:
    """Half width of the 95 % interval of a mean over many images."""
    return float(1.96 * values.std(ddof=1) / math.sqrt(len(values)))


def trainings(values: NDArray[np.float64]) -> float:
    """Half width of the 95 % interval of a mean over few seeds."""
    count = len(values)
    if count < 2:
        return math.nan
    return float(student.ppf(0.975, count - 1) * values.std(ddof=1) / math.sqrt(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder of the CIFAR-10 archives")
    parser.add_argument("--tables", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10_additions"))
    parser.add_argument("--keep", type=Path, help="folder for what the tables need")
    args = parser.parse_args()
    data = args.data.absolute()
    for name in args.tables:
        places = [(args.runs / f"{name}_seed{seed}").absolute() for seed in args.seeds]
        for seed, place in zip(args.seeds, places, strict=True):
            run(RUNS[name], seed, data, place)
            if args.keep is not None:
                keep(place, data, args.keep)
        print(f"\n{name}\n")
        print("\n".join(table(places)), flush=True)


if __name__ == "__main__":
    main()
