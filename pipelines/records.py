"""What a stage's directory says about itself: `config.json` first, `result.json` last.

`result.json` carries a digest of its own content: a file that was edited or cut is refused, not
believed.
"""

from __future__ import annotations

import errno
import json
import math
import time
from collections.abc import Mapping
from typing import Any

from data_shards.location import Location
from fsl.config import digest
from fsl.errors import StageError
from pipelines.credentials import without_credentials
from pipelines.stage import PlannedStage, StageResult

FORMAT = 1
RESULT = "result.json"
"""What a stage writes last: a stage without it is not done."""


def write_config(planned: PlannedStage) -> None:
    """Write `config.json`; refuse a directory that belongs to other settings."""
    path = planned.path / "config.json"
    if path.exists():
        key = _read(path, planned).get("key")
        if key != planned.key:
            raise StageError(
                f"{path}: belongs to a stage with the key {key!r}, this one has "
                f"{planned.key!r}; delete {planned.path}, or use another run_dir"
            )
    config = json.loads(without_credentials(planned.config.model_dump_json()))
    _write(path, {**_identity(planned), "config": config})


def write_result(planned: PlannedStage, metrics: Mapping[str, float], begun: float) -> StageResult:
    """Write `result.json`, which marks the stage done, and return the result."""
    numbers = {name: float(value) for name, value in metrics.items()}
    content = {
        **_identity(planned),
        # JSON has no NaN; null stands for a number that was not finite
        "metrics": {k: v if math.isfinite(v) else None for k, v in numbers.items()},
        "started": _moment(begun),
        "finished": _moment(time.time()),
        "seconds": round(time.time() - begun, 3),
    }
    _write(planned.path / RESULT, {**content, "digest": digest(content)})
    return _result(planned, numbers)


def read_result(planned: PlannedStage) -> tuple[StageResult | None, str]:
    """Return the stage's result and when it was finished, or (None, "") when it is not done."""
    path = planned.path / RESULT
    if not path.exists():
        return None, ""
    content = _read(path, planned)
    claimed = content.pop("digest", None)
    if claimed != digest(content) or content.get("key") != planned.key:
        raise StageError(
            f"{path}: its content is not what the stage wrote (edited or copied?); "
            f"delete {planned.path} to run stage {planned.label!r} again"
        )
    metrics = {k: math.nan if v is None else float(v) for k, v in content["metrics"].items()}
    return _result(planned, metrics), str(content["finished"])


def has_attempt(planned: PlannedStage) -> bool:
    """Return whether an interrupted attempt is in the stage's directory."""
    return (planned.path / "config.json").exists()


def remedy(error: BaseException | None) -> str:
    """Return what to do about a storage fault, read from the errors behind `error`."""
    again = "then run the same command again to continue"
    while error is not None:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"; free some space or choose another run_dir, {again}"
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"; make it writable or choose another run_dir, {again}"
        error = error.__cause__ or error.__context__
    return ""


def _identity(planned: PlannedStage) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "label": planned.label,
        "kind": planned.config.kind,
        "version": planned.stage.version,
        "key": planned.key,
        "data": planned.data,
        "inputs": [
            {"label": item.label, "kind": item.config.kind, "key": item.key, "dir": item.path.name}
            for item in planned.inputs.values()
        ],
    }


def _result(planned: PlannedStage, metrics: Mapping[str, float]) -> StageResult:
    place = planned.stage.place(planned.path)
    return StageResult(planned.label, planned.config.kind, planned.key, place, metrics)


def _write(path: Location, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _read(path: Location, planned: PlannedStage) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise StageError(
            f"{path}: not valid JSON ({error}); delete {planned.path} to run stage "
            f"{planned.label!r} again"
        ) from None
    if not isinstance(content, dict):
        raise StageError(f"{path}: not a JSON object; delete {planned.path} to run it again")
    return content


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
