"""How many trials run side by side, and whether one fits at all.

Ray Tune does not see what the workers of a nested training run need, and waits without a word for
resources that never come: so it is computed here, before anything starts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from fsl.errors import ConfigError, StageError
from pipelines.ray_trainer import OBJECT_STORE_BYTES, connect
from pipelines.train_config import TrainConfig
from tuning.config import StudyConfig
from tuning.space import Space

SLIVER = 0.01
"""CPUs that the process of a nested trial holds: it only waits, and Tune refuses 0."""


@dataclass(frozen=True)
class Need:
    """What one trial takes.

    Attributes:
        trial: resources that Tune reserves for the trial's own process.
        whole: what the trial takes altogether, without that of a process that only waits.
        piece: the most of it that has to be on one machine.
    """

    trial: Mapping[str, float]
    whole: Mapping[str, float]
    piece: Mapping[str, float]

    @property
    def devices(self) -> float:
        """GPUs or, without any, CPUs."""
        return self.whole.get("GPU", 0.0) or self.whole["CPU"]


@contextmanager
def ray_for(config: StudyConfig) -> Iterator[None]:
    """Connect to the cluster, or start one on this machine and end it afterwards.

    Nested trials get a dashboard: without its State API, Ray Train leaves the places of a killed
    run reserved for ever.
    """
    ours = not ray.is_initialized()
    nested = config.trials.launcher == "ray"
    if nested and not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
        ray.init(
            address="local",
            num_cpus=(os.cpu_count() or 1) + 1,  # the trials' own processes need slivers
            include_dashboard=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    connect()
    try:
        yield
    finally:
        if ours:  # what comes after the trials wants the memory
            ray.shutdown()


def need_of(config: StudyConfig, space: Space) -> Need:
    """Return what a trial of a study takes; of several recipes, the most."""
    if config.trials.launcher == "local":
        own = {"CPU": float(config.trials.cpus), "GPU": config.trials.gpus}
        return Need(own, own, own)
    gpus_here = ray.cluster_resources().get("GPU", 0) > 0  # type: ignore[no-untyped-call]
    cpus, gpus, of_worker = 0.0, 0.0, 0.0
    for branch in space.branches.values():
        for stage in branch.train_stages():
            assert isinstance(stage, TrainConfig)
            cluster = stage.cluster
            gpu = gpus_here if cluster.gpu == "auto" else cluster.gpu
            cpus = max(cpus, cluster.fewest * cluster.cpus_per_worker)
            gpus = max(gpus, cluster.fewest if gpu else 0)
            of_worker = max(of_worker, cluster.cpus_per_worker)
    sliver = {"CPU": SLIVER, "GPU": 0.0}
    whole = {"CPU": cpus, "GPU": float(gpus)}
    return Need(sliver, whole, {"CPU": of_worker, "GPU": min(gpus, 1.0)})


def concurrency(config: StudyConfig, need: Need) -> int:
    """Return how many trials run at once.

    Raises:
        StageError: not even one fits.
    """
    have: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room, whole = {name: have.get(name, 0.0) for name in ("CPU", "GPU")}, dict(need.whole)
    if config.trials.launcher == "ray":
        if os.environ.get("RAY_ADDRESS"):
            whole["CPU"] += SLIVER
        else:
            room["CPU"] -= 1.0  # of our own cluster, put there for all processes that wait
    fits = min(int(room[name] / amount + 1e-9) for name, amount in whole.items() if amount > 0)
    if not (os.environ.get("RAY_ADDRESS") and config.trials.concurrent):
        if fits < 1:
            _refuse("one trial needs", whole, "the Ray cluster has", room)
        largest = _largest_node(need.piece)
        if any(amount > largest[name] for name, amount in need.piece.items()):
            _refuse("one process needs", need.piece, "the largest machine has", largest)
    wished = config.trials.concurrent
    if wished is None:
        return min(fits, config.budget.trials)
    return wished if os.environ.get("RAY_ADDRESS") else min(wished, fits)


def check_all_fit(config: StudyConfig, need: Need) -> None:
    """Refuse a population whose members cannot all train at once.

    Tune would begin the last members when the first have ended: nobody left to learn from.

    Raises:
        ConfigError: there is room for fewer.
        StageError: not even one fits.
    """
    members, at_once = config.budget.trials, concurrency(config, need)
    if at_once >= members:
        return
    if at_once == config.trials.concurrent:
        raise ConfigError(
            f"budget.trials: {members} members of a population train at once, but "
            f"trials.concurrent lets only {at_once}; raise it, or lower budget.trials"
        )
    raise ConfigError(
        f"budget.trials: {members} members of a population train at once, but only {at_once} fit "
        "into the Ray cluster; lower budget.trials, or trials.cpus and trials.gpus, or add nodes. "
        "Where nodes come on demand, set trials.concurrent"
    )


def _largest_node(piece: Mapping[str, float]) -> Mapping[str, float]:
    """Return what the machine has on which most of a piece fits."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    have = [{name: node.get(name, 0.0) for name in piece} for node in nodes]
    return max(have, key=lambda node: min(node[n] / a for n, a in piece.items() if a > 0))


def _refuse(who: str, wanted: Mapping[str, float], where: str, there: Mapping[str, float]) -> None:
    short = [name for name, amount in wanted.items() if amount > there[name]]
    raise StageError(
        f"trials: {who} {', '.join(f'{wanted[name]:g} {name}' for name in short)}, but {where} "
        f"{', '.join(f'{there[name]:g} {name}' for name in short)}; lower trials.cpus and "
        "trials.gpus (or the recipe's cluster section), or add nodes. Where nodes come on demand, "
        "set trials.concurrent"
    )
