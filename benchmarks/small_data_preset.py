"""What makes stage 1 learn on little data: the Omniglot preset with one thing changed at a time.

    python benchmarks/small_data_preset.py --data FOLDER [--epochs 8] [--seed 0]

Every variant takes the same number of steps of stage 1 and answers the same sealed episodes of the
novel alphabets. "KL" is that of the teacher's mean distribution from the uniform one and "rank" the
effective rank of its features, both at the end: near 0 and near 1 mean that all images look alike.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fsl.config import build
from pipelines.metric_log import read_metrics
from pipelines.quiet import prepare_environment
from pipelines.runner import PipelineConfig, run_pipeline

RECIPE = Path(__file__).parents[1] / "recipes" / "omniglot_smkd.yaml"
HEAD, BACKBONE = "stages.pretrain.method.head", "stages.pretrain.backbone"
METHOD = "stages.pretrain.method"
THIN_VIT = {"name": "vit", "size": "nano", "patch": 8, "depth": 4}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "the preset": {},
    "no batch norm before the head": {f"{HEAD}.norm": "none"},
    "1,024 prototypes, no batch norm": {f"{HEAD}.prototypes": 1024, f"{HEAD}.norm": "none"},
    "published teacher momentum .996 to 1": {
        f"{METHOD}.momentum": 0.996,
        f"{METHOD}.final_momentum": 1.0,
    },
    "convolutional stem, 4 transformer blocks": {
        BACKBONE: {"name": "conv_vit", "stem": [32, 64, 128], "width": 128, "depth": 4}
    },
    "thin ViT, patch 8": {BACKBONE: THIN_VIT},
    "thin ViT, 1,024 prototypes, no batch norm": {
        BACKBONE: THIN_VIT,
        f"{HEAD}.prototypes": 1024,
        f"{HEAD}.norm": "none",
    },
}


def run_variant(changes: Mapping[str, Any], arguments: argparse.Namespace) -> str:
    """Return the cells of one variant's row."""
    tree = yaml.safe_load(RECIPE.read_text())
    tree["stages"] = {name: tree["stages"][name] for name in ("shards", "pretrain", "evaluate")}
    tree["stages"]["evaluate"] |= {"needs": ["shards", "pretrain"], "baselines": []}
    values = {"seed": arguments.seed, "run_dir": arguments.runs, **changes}
    values["stages.pretrain.optim.epochs"] = arguments.epochs
    if arguments.data:
        values["stages.shards.source.root"] = arguments.data
    config = build(PipelineConfig, tree, values, origin=str(RECIPE))
    results = run_pipeline(config, lambda event: None)
    pretrain, evaluated = results["pretrain"], results["evaluate"].metrics
    last = [line for line in read_metrics(pretrain.path) if line["kind"] == "train"][-1]
    count = tree["stages"]["pretrain"]["method"]["head"]["prototypes"]
    count = changes.get(f"{HEAD}.prototypes", count)
    accuracies = [
        f"{100 * evaluated[f'pretrain_prototype_{ways}w1s']:.1f} ± "
        f"{100 * evaluated[f'pretrain_prototype_{ways}w1s_ci95']:.1f}"
        for ways in (5, 20)
    ]
    return " | ".join(
        [
            *accuracies,
            f"{last['loss_cls'] / math.log(count):.2f}",
            f"{last['teacher_kl']:.2f}",
            f"{last['effective_rank']:.1f}",
            f"{pretrain.metrics['cpu_minutes']:.1f}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=str, help="folder with the two zips")
    parser.add_argument("--runs", default="runs/small_data_preset")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prepare_environment()
    print("| stage 1 with | 5w1s | 20w1s | class loss / ln K | KL | rank | CPU min |")
    print("|---" * 7 + "|")
    for name, changes in VARIANTS.items():
        print(f"| {name} | {run_variant(changes, arguments)} |", flush=True)


if __name__ == "__main__":
    main()
