"""A training run on Ray Train: connect, start the workers, follow them, explain what went wrong.

Ray restarts workers; where they go on is ours to say: at the newest whole checkpoint below the
stage's own directory, which belongs to one set of settings. So running a stage again continues it.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import uuid
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from data_shards.location import Location
from fsl import errors
from fsl.errors import FewShotError, OutOfMemoryError, StageError
from pipelines.checkpoint import DIRECTORY, find_checkpoints
from pipelines.follow import Follower
from pipelines.interrupts import interruptible
from pipelines.progress import ProgressLine
from pipelines.ray_entry import train_worker
from pipelines.ray_nodes import refuse_unseen
from pipelines.ray_session import FAILURES, fatal_failure, read_failures
from pipelines.ray_watch import WatchedRun
from pipelines.train_config import ClusterConfig
from pipelines.trainer import TrainSpec
from pipelines.watch import current_watcher

TRAIN: Any = ray.train
"""Ray Train; chooses the classes of V2 at import, which type checkers cannot see."""
logger = logging.getLogger(__name__)
OBJECT_STORE_BYTES = 150_000_000
"""Images never pass through Ray; its default would take 30 % of the memory."""
SHOWN_LINES = 15
START_ATTEMPTS = 3
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray's list of checkpoints, which an earlier version left: Ray would insist on all it names."""


def connect(address: str | None = None) -> None:
    """Connect to a cluster, unless this process already is.

    Args:
        address: of a running cluster; None takes RAY_ADDRESS, and without it a cluster of this
            machine alone is started. A running cluster is never picked up by chance.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options |= {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(address=address, **options)
            return
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StageError(
                f"Ray at address {address!r} cannot be reached: {error}; start it, or unset "
                "RAY_ADDRESS to use this machine"
            ) from None
        except Exception as error:  # Ray has no class for it: a busy machine was too slow
            if "timed out during startup" not in str(error):
                raise
            logger.warning("Ray did not start in time (attempt %d)", attempt + 1)
            ray.shutdown()
    raise StageError(
        f"Ray did not start on this machine in {START_ATTEMPTS} attempts; its processors are "
        "probably busy with other work: run the same command again later"
    )


def run_training(spec: TrainSpec, total_steps: int) -> None:
    """Run the whole training run of a stage, from its last checkpoint if it has one.

    Raises:
        FewShotError: the workers do not fit, or the run failed; with the reason.
        TrainingStopped: the watcher around this call ended it.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # default 2: a slow end
    connect()
    use_gpu = _uses_gpu(spec.config.cluster)
    _fits(spec.config.cluster, use_gpu)
    refuse_unseen(spec.out, _of_one_worker(spec.config.cluster, use_gpu))
    (spec.out / DIRECTORY / SNAPSHOT).delete()
    (spec.out / FAILURES).delete()
    attempt = uuid.uuid4().hex
    watched = WatchedRun(
        spec.out, spec.label, total_steps, current_watcher(), after=_reached(spec.out)
    )
    try:
        with (
            ProgressLine(spec.label, total_steps) as line,
            Follower(spec.out, line.show, watched.hear),
        ):
            _fit(spec, attempt, use_gpu)
    except ray.train.TrainingFailedError as error:
        raise _explained(spec, attempt, error) from error
    record = fatal_failure(spec.out, attempt)
    if record is not None:
        raise _as_error(record)
    watched.settle()
    reached = _reached(spec.out)
    if reached < total_steps:  # Ray ends an interrupted run without an error
        raise StageError(
            f"training was interrupted; saved up to step {reached} of {total_steps}: run the same "
            "command again to go on"
        )


def _fit(spec: TrainSpec, attempt: str, use_gpu: bool) -> None:
    """Train; when Ray's own process of the run dies, go on from the last checkpoint."""
    limit = spec.config.cluster.max_failures
    for deaths in itertools.count(1):
        try:
            with interruptible():
                _trainer(spec, attempt, use_gpu).fit()
            return
        except ray.exceptions.RayActorError as error:  # workers' deaths come as another error
            if error.actor_init_failed:
                raise StageError(f"Ray cannot start the training run: {error}") from error
            if 0 <= limit < deaths:
                raise StageError(
                    f"the controller of the training run died {deaths} times (killed, or out of "
                    f"memory?), more than cluster.max_failures ({limit}); {error}"
                ) from error
            logger.warning("the controller of the training run died; it is started again")


def _trainer(spec: TrainSpec, attempt: str, use_gpu: bool) -> TorchTrainer:
    """Return the Ray Train run of a stage."""
    cluster = spec.config.cluster
    return TorchTrainer(
        train_worker,  # type: ignore[arg-type]
        train_loop_config={"spec": pickle.dumps(spec), "attempt": attempt.encode()},
        scaling_config=TRAIN.ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=use_gpu,
            resources_per_worker=_of_one_worker(cluster, use_gpu),
            elastic_resize_monitor_interval_s=cluster.resize_seconds,
        ),
        run_config=TRAIN.RunConfig(
            name=DIRECTORY,
            storage_path=spec.out.path,
            storage_filesystem=spec.out.filesystem,
            failure_config=TRAIN.FailureConfig(max_failures=cluster.max_failures),
            logging_config=TRAIN.LoggingConfig(log_level="ERROR"),
        ),
    )


def _of_one_worker(cluster: ClusterConfig, use_gpu: bool) -> dict[str, float]:
    return {"CPU": cluster.cpus_per_worker, **({"GPU": 1} if use_gpu else {})}


def _reached(out: Location) -> int:
    """Return the step of the last whole checkpoint, 0 without one."""
    return max((info.step for info in find_checkpoints(out).values()), default=0)


def _uses_gpu(cluster: ClusterConfig) -> bool:
    if cluster.gpu == "auto":
        return _resources().get("GPU", 0) > 0
    return cluster.gpu


def _resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def _fits(cluster: ClusterConfig, use_gpu: bool) -> None:
    """Refuse what the cluster can never run: Ray would wait for it without a word."""
    have = _resources()
    one = _of_one_worker(cluster, use_gpu)
    need = {name: cluster.fewest * amount for name, amount in one.items()}
    short = [name for name, amount in need.items() if have.get(name, 0) < amount]
    if not short:
        return
    wanted = ", ".join(f"{need[name]:g} {name}" for name in short)
    there = ", ".join(f"{have.get(name, 0):g} {name}" for name in short)
    message = f"{cluster.fewest} workers need {wanted}, but the Ray cluster has {there}"
    if os.environ.get("RAY_ADDRESS"):  # its autoscaler may add nodes when asked
        logger.warning("cluster: %s at the moment; waiting for nodes to come", message)
        return
    raise StageError(
        f"cluster: {message}; lower cluster.workers or cluster.cpus_per_worker, or add nodes"
    )


def _explained(spec: TrainSpec, attempt: str, error: ray.train.TrainingFailedError) -> FewShotError:
    """Return the reason of a failed run: the first rank that failed, its last lines, its logs."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    records = read_failures(spec.out, attempt)
    told = {record["rank"] for record in records}
    silent = [rank for rank in failures if rank not in told]
    logs = f"logs: {_log_directory()}"
    if silent:  # killed from outside: the others failed because of it
        rank = min(silent)
        reason = str(failures[rank]).strip().splitlines()
        shown = "\n  ".join(reason[-SHOWN_LINES:])
        if isinstance(_death(failures[rank]), ray.exceptions.OutOfMemoryError):
            return OutOfMemoryError(
                f"out of memory: Ray ended the worker of rank {rank} to save its node, more than "
                f"cluster.max_failures ({spec.config.cluster.max_failures}) times; lower "
                f"data.batch_size or data.loader_workers; {logs}\n  {shown}"
            )
        return StageError(
            f"worker of rank {rank} died (killed, or out of memory?); {logs}\n  {shown}"
        )
    if not records:
        return StageError(f"{error}; {logs}")
    first = records[0]
    if hasattr(errors, first["type"]):
        return _as_error(first)
    lines = "\n  ".join(first["traceback"].strip().splitlines()[-SHOWN_LINES:])
    return StageError(
        f"worker of rank {first['rank']} (pid {first['pid']} on {first['host']}) failed first; "
        f"{logs}\n  {lines}"
    )


def _death(failure: Exception) -> Exception:
    """Return why a worker is gone: Ray Train wraps what it saw when it asked for its health."""
    inner: Exception = getattr(failure, "health_check_failure", failure)
    return inner


def _as_error(record: Mapping[str, Any]) -> FewShotError:
    """Return the worker's own error, as the class it was."""
    kind = getattr(errors, record["type"], StageError)
    if kind is errors.UnknownNameError:
        kind = errors.ConfigError
    error: FewShotError = kind(record["message"])
    return error


def _log_directory() -> str:
    node = getattr(ray._private.worker, "_global_node", None)
    return str(node.get_logs_dir_path()) if node is not None else "the Ray session's directory"
