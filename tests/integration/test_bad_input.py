"""Planted faults: each gives status 2, one clear message, and leaves earlier results alone.

Every fault goes through the command line as a user would run it, against a run directory in which
the first stage is done.
"""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from data_shards.location import Location
from pipelines.cli import main
from pipelines.lock import run_lock
from tests.integration.faulty_world import World, copy_world, make_world
from tests.integration.planted_faults import ALL, Fault


@pytest.fixture(scope="module")
def good_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make_world(root)
    return root


@pytest.fixture
def world(good_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return copy_world(good_world, tmp_path)


def message(world: World, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, which must fail well, and return what the user reads."""
    world.write_recipe()
    before = world.results()
    capsys.readouterr()
    status = main(world.argv)
    out, err = capsys.readouterr()
    assert status == 2, out + err
    assert "Traceback" not in out + err
    assert world.results() == before
    return err


def test_the_world_without_a_fault_is_good(world: World) -> None:
    world.write_recipe()
    assert main(["run", "recipe.yaml", "--check"]) == 0


@pytest.mark.parametrize("fault", ALL, ids=[fault.name for fault in ALL])
def test_a_fault_gives_a_clear_message(
    world: World, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    fault.plant(world)
    text = message(world, capsys)
    assert [word for word in fault.words if word not in text] == [], text


def test_there_are_at_least_forty_faults() -> None:
    assert len(ALL) >= 40


def test_two_runs_on_one_directory(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with run_lock(Location.parse(world.root / "run")):
        text = message(world, capsys)
    assert "another run is using this directory (process " in text


def test_a_full_disk_is_explained_and_the_run_continues_later(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.set("stages.shards.max_samples", 30)
    world.recipe["stages"] = {"shards": world.stages["shards"]}
    world.write_recipe()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        status = main(world.argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capsys.readouterr().err
    assert status == 2
    assert "Traceback" not in err
    assert "stage 'shards'" in err
    assert "File too large" in err
    assert "free some space" in err
    assert main(world.argv) == 0
