"""Which checkpoints a run keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from data_shards.location import Location
from pipelines.checkpoint import MANIFEST, SCORE, CheckpointInfo, find_checkpoints, write_pointers
from pipelines.session import LocalSession, newest_checkpoint


def saved(tmp_path: Path, scores: Mapping[int, float | None], keep: int) -> Location:
    """Return the directory of a run that saved checkpoints of these scores by step."""
    out = Location.parse(tmp_path / "run")
    session = LocalSession(out, keep)
    for step, score in scores.items():
        metrics = {} if score is None else {SCORE: score}
        info = CheckpointInfo(step, 0, 1, "d", {}, metrics)
        source = tmp_path / f"source-{step}"
        source.mkdir(parents=True)
        (source / MANIFEST).write_text(json.dumps(asdict(info)))
        session.save(source, f"step-{step:08d}", metrics)
    return out


def kept(out: Location) -> list[int]:
    return [info.step for info in find_checkpoints(out).values()]


def test_the_earliest_of_equals_stays_however_many_are_kept(tmp_path: Path) -> None:
    scores = {1: 0.4, 2: 0.5, 3: 0.5, 4: 0.5, 5: 0.3}
    for keep, steps in ((1, [2, 5]), (2, [2, 3, 5]), (9, [1, 2, 3, 4, 5])):
        out = saved(tmp_path / str(keep), scores, keep)
        assert kept(out) == steps
        assert write_pointers(out)["best"].step == 2


def test_without_scores_the_newest_stay(tmp_path: Path) -> None:
    out = saved(tmp_path, dict.fromkeys(range(1, 6)), keep=2)
    assert kept(out) == [4, 5]
    newest = newest_checkpoint(out)
    assert newest is not None
    assert newest.name == "step-00000005"


def test_checkpoints_between_validations_go_before_any_with_a_score(tmp_path: Path) -> None:
    assert kept(saved(tmp_path, {1: 0.0, 2: None, 3: 0.1, 4: None, 5: None}, keep=2)) == [1, 3, 5]
