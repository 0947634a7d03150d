"""What made a result: versions, code, machine, command, seeds and time, as `provenance.json`."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_shards.location import Location
from pipelines.credentials import without_credentials

NAME = "provenance.json"
PACKAGES = (
    "fewshot-ray", "ray", "torch", "torchvision", "timm", "webdataset", "pyarrow", "numpy",
    "pydantic", "optuna",
)  # fmt: skip


def write_provenance(directory: Location, seeds: Mapping[str, int | None]) -> None:
    """Write `provenance.json`: this attempt's facts, those of earlier attempts under "earlier"."""
    path = directory / NAME
    earlier: list[Any] = []
    if path.exists():
        try:
            before = json.loads(path.read_text())
            earlier = [*before.pop("earlier", []), before]
        except (json.JSONDecodeError, AttributeError):
            earlier = ["unreadable"]
    path.write_text(json.dumps({**collect(seeds), "earlier": earlier}, indent=2) + "\n")


def collect(seeds: Mapping[str, int | None]) -> dict[str, Any]:
    """Return the facts about this process, its code and its machine."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [without_credentials(word) for word in sys.argv],
        "seeds": dict(seeds),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cpus": len(os.sched_getaffinity(0)),
        "packages": package_versions(),
        "git": git_state(),
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def git_state() -> dict[str, Any]:
    """Return commit and whether tracked files were changed; nulls outside a git checkout."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    """Return what git says about the directory of this file, or None when it says nothing."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments],
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
