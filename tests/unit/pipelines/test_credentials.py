"""Keys and passwords in addresses are in no file of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from data_shards.location import Location
from pipelines.commands import as_yaml
from pipelines.credentials import without_credentials
from pipelines.lock import owner
from pipelines.provenance import write_provenance
from pipelines.records import write_config
from pipelines.runner import plan

ADDRESS = "s3://AKIA:abc%2Fdef@bucket/runs?region=eu-west-1"
PLAIN = "s3://bucket/runs?region=eu-west-1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"run_dir={ADDRESS}", f"run_dir={PLAIN}"),
        (f'{{"a":"{ADDRESS}","b":"{ADDRESS}"}}', f'{{"a":"{PLAIN}","b":"{PLAIN}"}}'),
        ('{"a":"s3://bucket","b":"me@home"}', '{"a":"s3://bucket","b":"me@home"}'),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("me@home", "me@home"),
    ],
)
def test_only_the_credentials_go(text: str, expected: str) -> None:
    assert without_credentials(text) == expected


def test_command_and_settings_are_written_without_them(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fewshot", "run", "a.yaml", f"run_dir={ADDRESS}"])
    assert owner()["command"] == f"fewshot run a.yaml run_dir={PLAIN}"

    write_provenance(Location.parse(tmp_path), {})
    assert json.loads((tmp_path / "provenance.json").read_text())["command"][-1].endswith(PLAIN)

    config = recipe()
    stage = plan(config)["first"]
    note = stage.config.model_copy(update={"outside": ADDRESS})
    stage.stage.config = note
    stage.path.make_dir()
    write_config(stage)
    written = json.loads((stage.path / "config.json").read_text())["config"]
    assert written == {**note.model_dump(mode="json"), "outside": PLAIN}

    shown = as_yaml(config.model_copy(update={"run_dir": ADDRESS}))
    assert f"run_dir: {PLAIN}\n" in shown
