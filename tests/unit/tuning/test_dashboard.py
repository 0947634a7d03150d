"""optuna-dashboard over HTTP: what it shows, that it follows a sweep, and that it cannot write."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import optuna
import pytest

from data_shards.location import Location
from fsl.errors import ConfigError, StageError
from tests.unit.tuning.example_study import example_config, example_study, stored_example
from tuning.dashboard import ReadOnlyJournal, make_dashboard, serve
from tuning.journal import JOURNAL, open_journal
from tuning.study_record import write_settings

Ask = Callable[..., Any]


@contextmanager
def shown(root: Location) -> Iterator[Ask]:
    """A running dashboard, as a function from path to the answer."""
    server = make_dashboard(root, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def ask(path: str, method: str = "GET", **headers: str) -> Any:
        address = f"http://127.0.0.1:{server.server_port}{path}"
        request = urllib.request.Request(address, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
        return json.loads(text) if path.startswith("/api") else text

    try:
        yield ask
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_trials_states_settings_and_curves_come_over_http(tmp_path: Path) -> None:
    config = stored_example(tmp_path)
    expected = example_study()
    before = (tmp_path / JOURNAL).read_bytes()
    with shown(config.root) as ask:
        assert "Optuna Dashboard" in ask("/dashboard")
        (summary,) = ask("/api/studies")["study_summaries"]
        assert summary["study_name"] == "example"
        detail = ask(f"/api/studies/{summary['study_id']}?after=0")
        assert detail["objective_names"] == ["val_accuracy"]
        states = {"Complete": "COMPLETE", "Pruned": "PRUNED", "Fail": "FAIL", "Running": "RUNNING"}
        for trial, known in zip(detail["trials"], expected.trials, strict=True):
            assert trial["number"] == known.number
            assert states[trial["state"]] == known.state.name
            assert {param["name"] for param in trial["params"]} == set(known.params)
            assert len(trial["intermediate_values"]) == len(known.intermediate_values)
        best = max(t.value for t in expected.trials if t.value is not None)
        assert [trial["values"] for trial in detail["best_trials"]] == [[best]]
        (importances,) = ask("/api/studies/0/param_importances")["param_importances"]
        assert importances[0]["importance"] > 0.2
    assert (tmp_path / JOURNAL).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {JOURNAL, "study.yaml"}


def test_what_a_sweep_adds_is_seen(tmp_path: Path) -> None:
    config = stored_example(tmp_path, trials=3)
    with shown(config.root) as ask:
        assert len(ask("/api/studies/0?after=0")["trials"]) == 3
    open_journal(tmp_path / JOURNAL, config).ask()
    journal = ReadOnlyJournal(config.root / JOURNAL)
    storage = optuna.storages.JournalStorage(journal)
    assert len(storage.get_all_trials(0)) == 4
    open_journal(tmp_path / JOURNAL, config).ask()
    with (tmp_path / JOURNAL).open("a") as stream:
        stream.write('{"op_code": 4, "wor')  # being written at this moment
    assert len(storage.get_all_trials(0)) == 5


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/api/studies/0"), ("POST", "/api/studies"), ("PUT", "/api/studies/0/note")],
)
def test_nothing_can_be_changed(tmp_path: Path, method: str, path: str) -> None:
    config = stored_example(tmp_path, trials=2)
    with shown(config.root) as ask, pytest.raises(HTTPError) as refused:
        ask(path, method)
    with refused.value as answer:
        assert answer.code == 403
        assert b"read only" in answer.read()
    storage = optuna.storages.JournalStorage(ReadOnlyJournal(config.root / JOURNAL))
    with pytest.raises(StageError, match="only `fewshot tune` writes"):
        storage.create_new_trial(0)


def test_other_host_names_are_refused(tmp_path: Path) -> None:
    config = stored_example(tmp_path, trials=1)
    with shown(config.root) as ask:
        assert ask("/api/studies", Host="localhost:9000")["study_summaries"]  # through a tunnel
        with pytest.raises(HTTPError) as refused:
            ask("/api/studies", Host="evil.example:8080")
    with refused.value as answer:
        assert answer.code == 403


def test_a_place_without_study_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no study is here"):
        serve(Location.parse(tmp_path))


def test_a_study_that_has_not_begun_is_an_error(tmp_path: Path) -> None:
    config = example_config(study_dir=str(tmp_path))
    write_settings(config.root, config)
    with pytest.raises(ConfigError, match="no trial has begun"):
        serve(config.root)


def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = stored_example(tmp_path, trials=1)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'fewshot-ray\[dashboard\]'"):
        serve(config.root)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    config = stored_example(tmp_path, trials=1)
    with (
        make_dashboard(config.root, port=0) as server,
        pytest.raises(ConfigError, match=rf"port {server.server_port} cannot be used .*--port"),
    ):
        serve(config.root, server.server_port)


def test_ctrl_c_ends_it_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = stored_example(tmp_path, trials=1)

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("socketserver.BaseServer.serve_forever", interrupted)
    serve(config.root, port=0)
    assert "http://127.0.0.1:" in capsys.readouterr().out
