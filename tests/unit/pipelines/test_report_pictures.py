"""Whose images the report shows: those of each evaluation, and those each model was trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.finished_run import FinishedRun

OTHER: dict[str, Any] = {
    "source": {
        "name": "strokes", "images": 20, "characters": 7, "base_alphabets": 0,
        "val_alphabets": 0, "novel_alphabets": 2, "size": 28,
    },
}  # fmt: skip
ASKED: dict[str, Any] = {"tasks": 3, "shots": [1], "queries": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    made = FinishedRun(tmp_path_factory.mktemp("pictures"))
    made.shards()
    made.model("distill", "smkd", ["shards"])
    made.run("other", "write_shards", OTHER, [])
    made.run("linked", "use_shards", {"path": str(made.root / "other-cccc")}, [])
    made.run("evaluate", "evaluate", ASKED, ["linked", "distill"])
    return made


def page_of(run: FinishedRun, needs: list[str]) -> str:
    run.run("report", "report", {}, needs)
    return (run.root / "report.html").read_text()


def names_in(page: str) -> set[str]:
    """Classes of the sample episode."""
    return {part.partition("</div>")[0] for part in page.split('<span class="letter">')[1:]}


def test_the_sample_episode_is_of_the_images_that_were_evaluated(run: FinishedRun) -> None:
    summary = json.loads((run.results["evaluate"].path / "summary.json").read_text())
    assert len(summary["classes"]) == 14  # the model's own shards have 7
    for needs in (["evaluate"], ["shards", "distill", "evaluate"]):
        page = page_of(run, needs)
        shown = {name.partition("</span>")[2] for name in names_in(page)}
        assert len(shown) == 5
        assert shown <= set(summary["classes"])
        assert "as distill answered it by its own classifier" in page
        assert 'id="masks"' in page
        assert 'id="patches"' in page


def test_shards_that_changed_or_went_are_said_and_the_rest_is_drawn(
    run: FinishedRun, tmp_path: Path
) -> None:
    assert run.root.local is not None
    again = FinishedRun(tmp_path / "copy")
    shutil.copytree(run.root.local, tmp_path / "copy")
    place = again.root / "evaluate-cccc"
    again.results["evaluate"] = replace(run.results["evaluate"], path=place)
    again.directories["evaluate"] = place.name
    config = place / "config.json"
    config.write_text(config.read_text().replace("linked-cccc", "shards-aaaa"))
    page = page_of(again, ["evaluate"])
    assert "No sample episode: " in page
    assert "the episode bank is of split" in page
    assert 'id="patches"' in page
    shutil.rmtree(tmp_path / "copy" / "shards-aaaa")
    page = page_of(again, ["evaluate"])
    for what in ("sample episode", "mask pictures", "patch matches"):
        assert f"No {what}: there are no shards among what " in page
