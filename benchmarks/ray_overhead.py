"""What Ray Train costs per step: the same loop in this process and in a Ray Train worker.

    python -m benchmarks.ray_overhead [--steps 150] [--rounds 3]

Rounds alternate (plain, Ray, Ray, plain, ...), so that a change in the machine's load meets both.
Time per step is the median over a run's log lines after the first third, from `metrics.jsonl`:
start-up is not in it, writing metrics and checkpoints is. One thread, one worker.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.config import build
from pipelines.metric_log import read_metrics
from pipelines.quiet import prepare_environment
from pipelines.session import LocalSession
from pipelines.stages.train import plan_steps, run_spec
from pipelines.train_config import TrainConfig
from pipelines.trainer import Trainer

BATCH = 32


def config(epochs: int) -> TrainConfig:
    """SMKD's first stage with a micro ViT on 28-pixel characters."""
    crops = {"global_size": 28, "local_size": 16, "local_views": 4}
    return build(
        TrainConfig,
        {
            "kind": "train",
            "seed": 0,
            "images": {"mode": "grey", "normalisation": "half", "size": 28, "resize": 28},
            "backbone": {"name": "vit", "size": "micro"},
            "method": {
                "name": "masked_distillation",
                "crops": crops,
                "head": {"prototypes": 256, "hidden": 128, "bottleneck": 64},
            },
            "data": {"batch_size": BATCH},
            "optim": {"epochs": epochs, "warmup_epochs": 1},
            "validation": {"every_epochs": 0},
            "log_every": 10,
        },
    )


def seconds_per_step(out: Location) -> float:
    """Return the median over log lines after the first third."""
    lines = read_metrics(out)
    steady = lines[len(lines) // 3 :]
    return statistics.median(BATCH / line["images_per_second"] for line in steady)


def run(with_ray: bool, shards: ShardSet, out: Path, settings: TrainConfig) -> tuple[float, float]:
    """Train once; return seconds per step, and of everything else."""
    place = Location.parse(out)
    place.make_dir()
    spec = run_spec(settings, shards, place)
    steps = plan_steps(settings, shards)
    begun = time.perf_counter()
    if with_ray:
        from pipelines.ray_trainer import run_training  # noqa: PLC0415 - after the environment

        run_training(spec, steps)
    else:
        Trainer(spec, LocalSession(place)).fit()
    each = seconds_per_step(place)
    return each, time.perf_counter() - begun - each * steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    prepare_environment()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as text:
        root = Path(text)
        source = StrokesConfig(base_alphabets=4, val_alphabets=0, novel_alphabets=0)
        shards = write_shards(source, Location.parse(root / "shards"), progress=False)
        per_epoch = len(shards) // BATCH
        settings = config(-(-arguments.steps // per_epoch))
        results: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for number in range(arguments.rounds):
            for with_ray in (False, True) if number % 2 == 0 else (True, False):
                out = root / f"{number}-{with_ray}"
                results[with_ray].append(run(with_ray, shards, out, settings))
                each, rest = results[with_ray][-1]
                name = "ray  " if with_ray else "plain"
                print(f"{name}: {1000 * each:.1f} ms per step, {rest:.1f} s besides", flush=True)
    ratios = [ray[0] / plain[0] for plain, ray in zip(*results.values(), strict=True)]
    print(f"ray / plain: median {statistics.median(ratios):.3f} of {sorted(ratios)}")


if __name__ == "__main__":
    main()
