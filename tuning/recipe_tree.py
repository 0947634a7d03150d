"""A study's recipe as plain mappings: as people read it, and as a trial runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fsl.config import build, json_copy, load_recipe
from fsl.errors import ConfigError, did_you_mean
from pipelines.runner import PipelineConfig
from pipelines.train_config import TrainConfig
from tuning.branch_config import BranchConfig
from tuning.config import StudyConfig

STAGES_DIR = "stages"
"""Run directory of all trials, below the study's."""


class _Raw(BaseModel):
    """Any mapping."""

    model_config = ConfigDict(extra="allow")


def read_tree(branch: BranchConfig) -> dict[str, Any]:
    """Return the recipe as its file has it."""
    if isinstance(branch.recipe, dict):
        return json_copy(branch.recipe)
    return dict(load_recipe(Path(branch.recipe), _Raw).model_extra or {})


def with_values(tree: Mapping[str, Any], values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return a mapping with dotted keys set; it is not validated."""
    return dict(build(_Raw, tree, values, origin=origin).model_extra or {})


def source_tree(
    config: StudyConfig, branch: BranchConfig, origin: str
) -> tuple[dict[str, Any], str]:
    """Return the recipe with everything that the study fixes, and the judged stage's label.

    Raises:
        ConfigError: unreadable, or there is no such train stage.
    """
    tree = with_values(read_tree(branch), branch.set, origin)
    objective = _objective(tree.get("stages"), branch.stage, origin)
    values = {f"stages.{objective}.validation.{k}": v for k, v in config.validation.items()}
    return with_values({**tree, "seed": config.seed}, values, origin), objective


def trial_tree(config: StudyConfig, full: PipelineConfig, objective: str) -> dict[str, Any]:
    """Return what a trial runs: the judged stage and those it comes from, in a shared place."""
    dump = full.model_dump(mode="json")
    labels = ancestors(full, objective)
    stages = {label: stage for label, stage in dump["stages"].items() if label in labels}
    for label, stage in stages.items():
        if isinstance(full.stages[label], TrainConfig):
            stage["checkpoint"]["keep"] = 1
        if isinstance(stage.get("cluster"), dict):
            stage["cluster"] |= _cluster(config, stage["cluster"])
    return {**dump, "stages": stages, "run_dir": str(config.root / STAGES_DIR)}


def ancestors(full: PipelineConfig, objective: str) -> set[str]:
    """Return the labels of a stage and of all stages that it needs, directly or not.

    Raises:
        ConfigError: a stage needs one that is not there.
    """
    found: set[str] = set()
    waiting = [objective]
    while waiting:
        label = waiting.pop()
        if label not in full.stages:
            raise ConfigError(
                f"stages: {label!r} is needed, but there is no such stage"
                f"{did_you_mean(label, full.stages)}; stages: {', '.join(full.stages)}"
            )
        if label not in found:
            found.add(label)
            waiting += full.stages[label].needs
    return found


def with_tags(tree: Any, filled: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted values, and before them the names of the sections that `tree` leaves out.

    Args:
        tree: a recipe as written.
        filled: the same with all defaults.
        values: what is to be set in `tree`.
    """
    names: dict[str, Any] = {}
    for key in values:
        parts, here, there = key.split("."), tree, filled
        for at, part in enumerate(parts[:-1], 1):
            here, there = _child(here, part), _child(there, part)
            if here is None and isinstance(there, dict) and "name" in there:
                names[".".join([*parts[:at], "name"])] = there["name"]
    return {**names, **values}


def _objective(stages: Any, wanted: str | None, origin: str) -> str:
    """Return the label of the train stage that is judged."""
    kinds = {
        str(label): stage.get("kind") if isinstance(stage, dict) else None
        for label, stage in (stages.items() if isinstance(stages, dict) else ())
    }
    trained = [label for label, kind in kinds.items() if kind == "train"]
    if wanted is None:
        if not trained:
            raise ConfigError(f"{origin}: no train stage, so there is nothing to tune")
        return trained[-1]
    if wanted not in kinds:
        listed = ", ".join(trained) or "none"
        raise ConfigError(
            f"stage: {origin} has no stage {wanted!r}{did_you_mean(wanted, kinds)}; train stages: "
            f"{listed}"
        )
    if wanted not in trained:
        raise ConfigError(
            f"stage: {wanted!r} of {origin} is a {kinds[wanted]} stage, and only train stages are "
            f"judged: {', '.join(trained) or 'none'}"
        )
    return wanted


def _cluster(config: StudyConfig, cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return what becomes of a stage's cluster section in a trial."""
    trials = config.trials
    if trials.launcher == "ray":
        return {"launcher": "ray"} if "launcher" in cluster else {}
    own: dict[str, Any] = {
        "launcher": "local",
        "workers": 1,
        "gpu": trials.gpus > 0,
        "cpus_per_worker": trials.cpus,
    }
    return {name: value for name, value in own.items() if name in cluster}


def _child(node: Any, part: str) -> Any:
    if isinstance(node, list):
        return node[int(part)] if part.isdigit() and int(part) < len(node) else None
    return node.get(part) if isinstance(node, dict) else None
