"""The whole pipeline of the demo in miniature: on this disk, on an object store, and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from data_shards.location import Location
from fsl.config import build
from pipelines.runner import PipelineConfig, StageEvent, run_pipeline

RECIPE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"
SMALLER: dict[str, Any] = {
    "stages.shards.source.characters": 6,
    "stages.shards.source.images": 12,
    "stages.shards.source.base_alphabets": 2,
    "stages.evaluate.ways": 5,
    "stages.evaluate.shots": [1],
    "stages.evaluate.tasks": 50,
    **{
        f"stages.{stage}.{key}": value
        for stage in ("pretrain", "distill")
        for key, value in {
            "optim.epochs": 1,
            "data.batch_size": 32,
            "validation.tasks": 20,
            "method.head.hidden": 32,
        }.items()
    },
    "stages.pretrain.backbone.widths": [4, 8, 8, 8],
}


def run(run_dir: str, **changes: Any) -> dict[str, str]:
    """Run the recipe and return the last that was said of each stage."""
    told: dict[str, str] = {}

    def hear(event: StageEvent) -> None:
        told[event.stage.label] = event.state

    tree = yaml.safe_load(RECIPE.read_text())
    run_pipeline(build(PipelineConfig, tree, {**SMALLER, "run_dir": run_dir, **changes}), hear)
    return told


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_shards_to_report_and_again(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if place == "disk" else str(request.getfixturevalue("s3_root"))
    ray.shutdown()  # workers of an earlier test's cluster know nothing of the bucket's credentials
    run_dir = str(Location.parse(root) / "run")
    stages = ["shards", "pretrain", "distill", "evaluate", "report"]
    assert run(run_dir) == dict.fromkeys(stages, "done")
    assert run(run_dir) == dict.fromkeys(stages, "skipped")
    other = run(run_dir, **{"stages.distill.method.lambda_patch": 0.3})
    assert list(other.values()) == ["skipped", "skipped", "done", "done", "done"]
    assert b"</html>" in (Location.parse(run_dir) / "report.html").read_bytes()
