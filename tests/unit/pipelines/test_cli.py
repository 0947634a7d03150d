"""The command line, driven through `main([...])`: status, words, streams."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from pipelines import commands
from pipelines.cli import main

Out = pytest.CaptureFixture[str]

RECIPE = """
stages:
  first: {kind: toy_number, value: 2.0}
  second: {kind: toy_double, needs: [first]}
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE)
    return path


def test_a_run_prints_a_line_per_stage(path: Path, capsys: Out) -> None:
    assert main(["run", str(path)]) == 0
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.split()[:3] == ["first", "done", "in"]
    assert "value=4" in second
    assert str(path.parent / "runs" / "toy" / "second-") in second
    assert "logs of libraries:" in err
    assert "second  starts" in err


def test_a_second_run_says_when_it_was_done(path: Path, capsys: Out) -> None:
    main(["run", str(path)])
    capsys.readouterr()
    assert main(["run", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in lines] == [["skipped,", "done"]] * 2


@pytest.mark.parametrize("position", [1, 2, 3])
def test_overrides_may_stand_on_both_sides_of_an_option(
    path: Path, capsys: Out, position: int
) -> None:
    argv = [str(path), "stages.first.value=5", "seed=3"]
    argv.insert(position, "--check")
    assert main(["run", "-v", *argv]) == 0
    out = capsys.readouterr().out
    assert "value: 5.0" in out
    assert "seed: 3" in out


def test_check_prints_the_plan_and_runs_nothing(path: Path, capsys: Out) -> None:
    assert main(["run", str(path), "--check"]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["stage", "kind", "key", "state", "directory"]
    assert first.split()[3] == second.split()[3] == "run"
    assert not (path.parent / "runs").exists()


def test_check_knows_done_and_interrupted_stages(path: Path, capsys: Out) -> None:
    assert main(["run", str(path), "stages.second.fail=mistake"]) == 2
    capsys.readouterr()
    main(["run", str(path), "stages.second.fail=mistake", "--check"])
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[3] == "done"
    assert second.split()[3] == "continue"


def test_verbose_settings_are_a_recipe(path: Path, capsys: Out) -> None:
    main(["run", str(path), "--check", "-v"])
    whole = capsys.readouterr().out.split("\nstage ")[0]
    again = path.with_name("again.yaml")
    again.write_text(whole)
    assert yaml.safe_load(whole)["name"] == "toy"
    assert main(["run", str(again), "--check"]) == 0


def test_a_mistake_exits_2_with_one_message(path: Path, capsys: Out) -> None:
    assert main(["run", str(path), "stages.second.fail=mistake"]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("fewshot run: stage 'second' (toy_double) in ")
    assert err.splitlines()[-1].endswith("the planted mistake")


def test_ctrl_c_exits_130_with_one_line(path: Path, capsys: Out) -> None:
    assert main(["run", str(path), "stages.second.fail=interrupt"]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "interrupted; run the same command again to continue"


def test_a_bug_keeps_its_traceback(path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        main(["run", str(path), "stages.second.fail=bug"])


def test_unknown_command_names_the_near_match(capsys: Out) -> None:
    assert main(["rnu"]) == 2
    assert "unknown command 'rnu'; did you mean 'run'?" in capsys.readouterr().err


def test_unknown_option_is_named(path: Path, capsys: Out) -> None:
    assert main(["run", str(path), "--chekc"]) == 2
    assert "--chekc" in capsys.readouterr().err


def test_no_command_prints_the_usage(capsys: Out) -> None:
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_help_and_version_do_not_import_torch_or_pydantic() -> None:
    code = (
        "import sys; from pipelines.cli import main; print(main(['--help']), main(['--version']));"
        "print(sorted({'torch', 'pydantic', 'ray', 'pyarrow', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "fewshot 0" in done.stdout


def test_ray_is_set_up_before_its_import(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a user's own choice is respected
    main(["run", str(path), "--check"])
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_library_talk_goes_to_the_log_and_ours_to_people(
    path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(*_: object) -> dict[str, object]:
        logging.getLogger("pipelines.trainer").warning("teacher collapsed")
        logging.getLogger("somelib").warning("library chatter")
        warnings.warn("deprecated thing", DeprecationWarning, stacklevel=1)
        return {}

    monkeypatch.setattr(commands, "run_planned", talk)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["run", str(path)]) == 0
    err = capsys.readouterr().err
    (log,) = (path.parent / "runs" / "toy" / "logs").iterdir()
    assert "warning: teacher collapsed" in err
    assert "chatter" not in err + "deprecated" * ("deprecated" in err)
    assert "library chatter" in log.read_text()
    assert "deprecated thing" in log.read_text()


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (185, "3 min 5 s"), (7620, "2 h 7 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert commands.duration(seconds) == text
