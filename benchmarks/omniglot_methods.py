"""Every method on Omniglot's small background sets: train, evaluate on the same episodes, compare.

    python benchmarks/omniglot_methods.py --data FOLDER [--minutes 20] [--methods protonet ...]
                                          [--seeds 0 1 2]

Each recipe is run once per seed, without Ray, with one torch thread, in a directory of its own;
what is done is skipped. At the end `fewshot compare` prints its table, if there are several
methods. The recipes train for about 5 CPU minutes each: 2 to 3 hours for all on one core.
`--minutes 20` gives each about four times the epochs at the same settings: 9 to 10 hours. `--keep`
copies what the comparison needs of each run (answers and settings, 100 KB) to a folder, from which
others can compare further.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
KEPT = ("config.json", "result.json", "summary.json", "accuracies.parquet")


class Run(NamedTuple):
    """A recipe, and what is changed in it."""

    recipe: str
    longer: Mapping[str, tuple[int, int]]
    """Of each stage that is trained: its epochs, and epochs between validations, in 20 minutes."""
    changes: tuple[str, ...] = ()


RUNS = {
    "protonet": Run("omniglot_protonet", {"protonet": (92, 23)}),
    "protonet_vit": Run("omniglot_protonet_vit", {"protonet_vit": (48, 16)}),
    "crosstransformer": Run("omniglot_crosstransformer", {"crosstransformer": (90, 30)}),
    "crosstransformer_simclr": Run(
        "omniglot_crosstransformer",
        {"crosstransformer": (110, 36)},
        ("stages.crosstransformer.method.simclr_fraction=0.5",),
    ),
    "awgim": Run("omniglot_awgim", {"backbone": (80, 20), "awgim": (5, 1)}),
    "supervised": Run("omniglot_supervised", {"supervised": (430, 86)}),
    "simclr": Run("omniglot_simclr", {"simclr": (230, 46)}),
    "smkd": Run(
        "omniglot_smkd",
        {"pretrain": (76, 19), "distill": (76, 19)},
        ("stages.evaluate.protocols=[method]",),
    ),
}


def command(run: Run, seed: int, minutes: int, data: Path, out: Path) -> list[str]:
    """Return the `fewshot run` of one recipe and seed."""
    changes = [f"stages.{label}.cluster.launcher=local" for label in run.longer]
    if minutes == 20:
        for label, (epochs, validate) in run.longer.items():
            changes.append(f"stages.{label}.optim.epochs={epochs}")
            changes.append(f"stages.{label}.validation.every_epochs={validate}")
    return [
        "run", str(ROOT / "recipes" / f"{run.recipe}.yaml"), f"seed={seed}", f"run_dir={out}",
        f"name={out.name}", f"stages.shards.source.root={data}", "stages.shards.seed=0",
        *changes, *run.changes,
    ]  # fmt: skip


def fewshot(*arguments: str) -> None:
    """Run the command line with one torch thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], check=True, env=environment)


def keep(run: Path, data: Path, folder: Path) -> None:
    """Copy a run's settings, results and answers; the data's place is not told."""
    for path in run.glob("*/*"):
        if path.name not in KEPT:
            continue
        copy = folder / run.name / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        copy.write_bytes(content.replace(str(data).encode(), b"FOLDER"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder of the two archives")
    parser.add_argument("--methods", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=int, choices=(5, 20), default=5, help="of CPU per run")
    parser.add_argument("--runs", type=Path, default=Path("runs/omniglot_methods"))
    parser.add_argument("--keep", type=Path, help="folder for what the comparison needs")
    args = parser.parse_args()
    places = []
    for seed in args.seeds:
        for name in args.methods:
            out = (args.runs / f"{name}_{args.minutes}min_seed{seed}").absolute()
            fewshot(*command(RUNS[name], seed, args.minutes, args.data.absolute(), out))
            places.append(str(out))
            if args.keep is not None:
                keep(out, args.data.absolute(), args.keep)
    if len(args.methods) > 1:  # a comparison needs two
        page = str(args.runs / "compare.html")
        fewshot("compare", *places, "--protocol", "method", "--out", page)


if __name__ == "__main__":
    main()
