"""Trains the toy method in a process of its own, which a test may kill.

    python -m tests.train_script (local|gloo|ray) DATA OUT [toy=episodes] [key=value ...]

`toy` is one of `tests.toy_training.CONFIGS`; `features` wants a table for DATA.
`gloo` takes RANK and WORLD_SIZE from the environment and meets the others in the file OUT.meet.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from data_shards.location import Location
from fsl.config import parse_overrides
from pipelines.quiet import prepare_environment
from pipelines.session import LocalSession
from pipelines.trainer import Trainer
from pipelines.training_data import open_data
from tests.toy_training import CONFIGS, toy_spec

ROOT = Path(__file__).parents[1]


def main(mode: str, data: str, out: str, overrides: Sequence[str]) -> None:
    """Train."""
    torch.set_num_threads(1)
    values = parse_overrides(overrides)
    toy = values.pop("toy", "images")
    source = open_data(Location.parse(data), toy == "features")
    spec = toy_spec(CONFIGS[toy](**values), source, Path(out))
    if mode == "ray":
        prepare_environment()
        from pipelines.ray_trainer import run_training
        from pipelines.stages.train import plan_steps

        run_training(spec, plan_steps(spec.config, source))
        return
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if mode == "gloo":
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{out}.meet", rank=rank, world_size=world
        )
    Trainer(spec, LocalSession(spec.out, rank=rank, world_size=world)).fit()
    if mode == "gloo":
        torch.distributed.destroy_process_group()


def start(mode: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the script in a process group of its own; end it with `end`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train_script", mode, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(*processes: subprocess.Popen[str], timeout: float) -> list[str]:
    """Wait for processes and return what they printed; kill their groups when time is up."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process and all that it started in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
