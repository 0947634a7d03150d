"""Every method on Omniglot's small background sets: train, evaluate on the same episodes, compare.

    python benchmarks/omniglot_methods.py --data FOLDER [--methods protonet ...] [--seeds 0 1 2]

Each recipe is run once per seed, without Ray, with one torch thread, in a directory of its own;
what is done is skipped. At the end `fewshot compare` prints its table over all of them. Budgets are
those of the recipes, about 5 CPU minutes of training each: 2 to 3 hours for all on one core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Run(NamedTuple):
    """A recipe, and what is changed in it."""

    recipe: str
    trained: tuple[str, ...]
    changes: tuple[str, ...] = ()


RUNS = {
    "protonet": Run("omniglot_protonet", ("protonet",)),
    "protonet_vit": Run("omniglot_protonet_vit", ("protonet_vit",)),
    "crosstransformer": Run("omniglot_crosstransformer", ("crosstransformer",)),
    "crosstransformer_simclr": Run(
        "omniglot_crosstransformer",
        ("crosstransformer",),
        ("stages.crosstransformer.method.simclr_fraction=0.5",),
    ),
    "awgim": Run("omniglot_awgim", ("backbone", "awgim")),
    "supervised": Run("omniglot_supervised", ("supervised",)),
    "simclr": Run("omniglot_simclr", ("simclr",)),
    "smkd": Run("omniglot_smkd", ("pretrain", "distill"), ("stages.evaluate.protocols=[method]",)),
}


def command(run: Run, seed: int, data: Path, out: Path) -> list[str]:
    """Return the `fewshot run` of one recipe and seed."""
    local = [f"stages.{label}.cluster.launcher=local" for label in run.trained]
    return [
        "run", str(ROOT / "recipes" / f"{run.recipe}.yaml"), f"seed={seed}", f"run_dir={out}",
        f"name={out.name}", f"stages.shards.source.root={data}", "stages.shards.seed=0",
        *local, *run.changes,
    ]  # fmt: skip


def fewshot(*arguments: str) -> None:
    """Run the command line with one torch thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder of the two archives")
    parser.add_argument("--methods", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/omniglot_methods"))
    args = parser.parse_args()
    places = []
    for seed in args.seeds:
        for name in args.methods:
            out = (args.runs / f"{name}_seed{seed}").absolute()
            fewshot(*command(RUNS[name], seed, args.data.absolute(), out))
            places.append(str(out))
    fewshot("compare", *places, "--protocol", "method", "--out", str(args.runs / "compare.html"))


if __name__ == "__main__":
    main()
