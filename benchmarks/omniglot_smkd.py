"""Two-stage SMKD on real handwriting: is each stage better than what came before?

    python benchmarks/omniglot_smkd.py --data FOLDER      # three seeds of the recipe
    python benchmarks/omniglot_smkd.py --data FOLDER --seeds 0 stages.distill.optim.epochs=5

All seeds share the shards and the sealed episodes of the novel alphabets. Differences are paired
by episode; the interval of the mean over seeds uses each episode's mean over seeds. CPU time is
that of the training processes, added up by the train stage itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor

from fsl.config import load_recipe
from fsl.metrics import mean_ci95
from fsl.statistics import paired_difference
from pipelines.accuracies import TABLE
from pipelines.quiet import prepare_environment
from pipelines.runner import PipelineConfig, run_pipeline
from pipelines.stage import StageResult

RECIPE = Path(__file__).parents[1] / "recipes" / "omniglot_smkd.yaml"
MODELS = ("pixels", "pretrain", "distill")
Results = dict[str, StageResult]


def run_seed(seed: int, arguments: argparse.Namespace) -> Results:
    """Run the recipe, or what is left of it."""
    overrides = [f"seed={seed}", f"run_dir={arguments.runs}", *arguments.overrides]
    if arguments.data:
        overrides.append(f"stages.shards.source.root={arguments.data}")
    results = run_pipeline(load_recipe(RECIPE, PipelineConfig, overrides), print_event)
    return dict(results)


def print_event(event: object) -> None:
    """Say little: the stages print their own progress."""


def accuracies(result: StageResult, model: str, ways: int) -> Tensor:
    """Return a model's accuracies (E,), in the order of the episodes."""
    place = (result.path / TABLE).local
    assert place is not None
    table = pq.read_table(place, filters=[("model", "=", model), ("ways", "=", ways)])
    return torch.tensor(table.sort_by("episode")["accuracy"].to_pylist(), dtype=torch.float64)


def rows(per_seed: Sequence[Results], seeds: Sequence[int], ways: int) -> list[str]:
    """Return the lines of one table: each model per seed and on average, then differences."""
    scores = {
        model: [accuracies(results["evaluate"], model, ways) for results in per_seed]
        for model in MODELS
    }
    names = [str(seed) for seed in seeds] + ["mean over seeds"]
    lines = [f"| {ways}-way 1-shot | " + " | ".join(f"seed {n}" for n in names[:-1]) + " | mean |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for model, values in scores.items():
        lines.append(row(model, [str(mean_ci95(v)).split(" %")[0] for v in with_mean(values)]))
    for before, after in pairwise(MODELS):
        pairs = zip(with_mean(scores[before]), with_mean(scores[after]), strict=True)
        found = [paired_difference(a, b) for a, b in pairs]
        cells = [f"{100 * d.mean:+.2f} ± {100 * d.half_width:.2f}" for d in found]
        lines.append(row(f"{after} − {before}", cells))
    return lines


def with_mean(values: Sequence[Tensor]) -> list[Tensor]:
    """Append the mean over seeds of each episode."""
    return [*values, torch.stack(list(values)).mean(0)]


def row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with the two zips")
    parser.add_argument("--runs", default="runs/omniglot_smkd")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_intermixed_args()
    prepare_environment()
    per_seed = [run_seed(seed, arguments) for seed in arguments.seeds]
    for ways in (5, 20):
        print("\n".join(["", *rows(per_seed, arguments.seeds, ways)]))
    minutes = [
        sum(results[name].metrics["cpu_minutes"] for name in ("pretrain", "distill"))
        for results in per_seed
    ]
    each = ", ".join(f"{value:.1f}" for value in minutes)
    print(f"\nCPU minutes of training per seed: {each}; {sum(minutes):.1f} in all")


if __name__ == "__main__":
    main()
