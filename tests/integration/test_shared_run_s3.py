"""Processes that share a run directory in a bucket: one at a time in a stage, whoever dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_shards.location import Location
from pipelines import claims
from pipelines.claims import claimed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

HEAD = """
import json, sys, time
from data_shards.location import Location
from pipelines import claims
claims.BEAT_SECONDS, claims.DEAD_SECONDS, claims.RETRY_SECONDS = 0.5, 4.0, 0.3
place = Location.parse(sys.argv[1])
"""
TURNS = (
    HEAD
    + """
for turn in range(4):
    with claims.claimed(place, lambda: None):
        with open(sys.argv[2], "a") as stream:
            stream.write(json.dumps([sys.argv[3], "in"]) + "\\n")
        time.sleep(0.2)
        with open(sys.argv[2], "a") as stream:
            stream.write(json.dumps([sys.argv[3], "out"]) + "\\n")
"""
)
HOLDER = (
    HEAD
    + """
with claims.claimed(place, lambda: None):
    print("held", flush=True)
    time.sleep(120)
"""
)
PIPELINE = (
    HEAD
    + """
from fsl.config import build
from pipelines.runner import PipelineConfig, run_pipeline
source = {"name": "strokes", "size": 12, "images": 4, "characters": 3,
          "base_alphabets": 1, "val_alphabets": 1, "novel_alphabets": 1}
stages = {sys.argv[2]: {"kind": "write_shards", "source": source}}
config = build(PipelineConfig, {"run_dir": sys.argv[1], "stages": stages})
def tell(event):
    print(event.state, event.stage.path.name, flush=True)
run_pipeline(config, tell, shared=True)
"""
)


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@contextmanager
def running(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Kill what still runs at the end of the block."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def output(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    return said


def below(root: str, name: str) -> str:
    """Return the address of a folder of the bucket."""
    place, _, query = root.partition("?")
    return f"{place}/{name}?{query}"


def test_two_processes_take_turns(s3_root: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    address = below(s3_root, "turns")
    processes = [start(TURNS, address, log, name) for name in "ab"]
    with running(*processes):
        for process in processes:
            output(process)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 16
    for came, went in zip(lines[::2], lines[1::2], strict=True):
        assert (came[1], went[1]) == ("in", "out")
        assert came[0] == went[0]
    assert Location.parse(address).list() == []


def test_a_killed_holder_is_followed_when_its_claim_is_old(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = below(s3_root, "killed")
    holder = start(HOLDER, address)
    monkeypatch.setattr(claims, "DEAD_SECONDS", 4.0)
    monkeypatch.setattr(claims, "RETRY_SECONDS", 0.3)
    waits: list[float] = []

    def kill() -> None:
        time.sleep(5)  # longer than a claim lives: the holder has kept its own fresh
        assert len(Location.parse(address).list()) == 1
        waits.append(time.monotonic())
        holder.send_signal(signal.SIGKILL)

    with running(holder):
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with claimed(Location.parse(address), kill):
            assert time.monotonic() - waits[0] > 2  # its claim had to grow old
    assert len(waits) == 1


def test_a_stage_in_a_bucket_runs_once_whatever_its_label(s3_root: str) -> None:
    address = below(s3_root, "shared")
    processes = [start(PIPELINE, address, label) for label in ("shards", "images")]
    with running(*processes):
        said = [output(process).split() for process in processes]
    states = [words[::2] for words in said]
    ran, found = sorted(states, key=lambda words: words[-1])  # "done" comes before "skipped"
    assert ran[-2:] == ["started", "done"]
    assert found in (["skipped"], ["waiting", "skipped"])
    assert len({words[-1] for words in said}) == 1  # in one directory
