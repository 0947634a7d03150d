"""A recipe of two train stages that takes a second or two, and studies over it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

IMAGES = {"mode": "grey", "normalisation": "half", "size": 16, "resize": 16}
VIEW = {"flip": 0, "grayscale": 0, "jitter": {"probability": 0}}
VALIDATION = {"every_epochs": 1, "ways": 3, "shots": 1, "queries": 4, "tasks": 20}
RECIPE: dict[str, Any] = {
    "stages": {
        "shards": {
            "kind": "write_shards",
            "source": {
                "name": "strokes", "size": 16, "images": 12, "characters": 8,
                "base_alphabets": 1, "val_alphabets": 1, "novel_alphabets": 1,
            },
        },
        "first": {
            "kind": "train",
            "needs": ["shards"],
            "images": IMAGES,
            "backbone": {"name": "conv4", "widths": [4, 4, 4, 8], "halvings": 3},
            "method": {"name": "supervised", "view": VIEW},
            "data": {"batch_size": 24, "cache": "decoded"},
            "optim": {"epochs": 1, "lr": 0.01, "warmup_epochs": 0},
            "validation": VALIDATION,
            "cluster": {"launcher": "local"},
        },
        "second": {
            "kind": "train",
            "needs": ["shards", "first"],
            "method": {"name": "protonet", "view": VIEW},
            "init": {"restore": "backbone"},
            "episodes": {"name": "fixed", "ways": 4, "shots": 1, "queries": 2, "per_epoch": 4},
            "data": {"cache": "decoded"},
            "optim": {"epochs": 4, "lr": 0.01, "warmup_epochs": 0},
            "validation": VALIDATION,
            "cluster": {"launcher": "local"},
        },
        "evaluate": {
            "kind": "evaluate", "needs": ["shards", "second"], "ways": 3, "shots": [1],
            "queries": 4, "tasks": 50, "protocols": ["method"],
        },
    }
}  # fmt: skip
STUDY: dict[str, Any] = {
    "recipe": "recipe.yaml",
    "search": {
        "method.temperature": {"low": 0.1, "high": 100.0, "log": True},
        "optim.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    },
    "budget": {"trials": 4},
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
    "finalists": {"count": 2, "ways": [3], "queries": 4, "tasks": 50},
}


def write_study(folder: Path, **changes: Any) -> Path:
    """Write recipe.yaml and study.yaml into a folder; return the study's path.

    Args:
        folder: where; `study_dir` is a folder in it.
        changes: keys of the study that replace those of `STUDY`.
    """
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    study = {"study_dir": str(folder / "study"), **STUDY, **changes}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in study.items() if value != "-"}))
    return path


def pretrained_elsewhere() -> dict[str, Any]:
    """The recipe's stages, the first one trained on classes of another data set, its val."""
    stages = copy.deepcopy(RECIPE["stages"])
    source = {**stages["shards"]["source"], "seed": 9}
    stages["first"] |= {
        "needs": ["elsewhere"],
        "data": {**stages["first"]["data"], "split": "val"},
        "validation": {"every_epochs": 0},
    }
    return {"elsewhere": {**stages["shards"], "source": source}, **stages}
