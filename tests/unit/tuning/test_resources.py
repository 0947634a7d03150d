"""How many trials run side by side on a given cluster, and which are refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from fsl.errors import StageError
from tests.toy_study import write_study
from tuning.config import load_study
from tuning.resources import Need, concurrency, need_of
from tuning.space import build_space


def at_once(
    folder: Path, nodes: list[dict[str, float]], patch: pytest.MonkeyPatch, **changes: Any
) -> int:
    """Return the trials at once of a study over the toy recipe, on machines like these."""
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    patch.setattr(ray, "cluster_resources", lambda: total)
    patch.setattr(ray, "nodes", lambda: [{"Resources": node, "Alive": True} for node in nodes])
    config = load_study(write_study(folder, budget={"trials": 50}, **changes))
    return concurrency(config, need_of(config, build_space(config)))


NESTED = {"launcher": "ray"}


def workers(count: int) -> dict[str, Any]:
    section = {"launcher": "ray", "workers": count}
    return {f"stages.{label}.cluster": section for label in ("first", "second")}


def test_local_trials_fill_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert at_once(tmp_path, [{"CPU": 4}], monkeypatch, trials={"cpus": 2}) == 2
    quarter = {"cpus": 1, "gpus": 0.25}
    assert at_once(tmp_path, [{"CPU": 8, "GPU": 1}], monkeypatch, trials=quarter) == 4


def test_nested_trials_fill_the_cores_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster of our own has one CPU more, for the processes that wait."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert at_once(tmp_path, [{"CPU": 3}], monkeypatch, trials=NESTED) == 2
    assert at_once(tmp_path, [{"CPU": 3}], monkeypatch, trials=NESTED, set=workers(2)) == 1


def test_on_a_cluster_that_is_there_the_waiting_processes_take_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert at_once(tmp_path, [{"CPU": 3}], monkeypatch, trials=NESTED, set=workers(1)) == 2
    with pytest.raises(StageError, match=r"one trial needs 2\.01 CPU, but the Ray cluster has 2"):
        at_once(tmp_path, [{"CPU": 2}], monkeypatch, trials=NESTED, set=workers(2))


def test_a_process_that_fits_on_no_single_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StageError, match="one process needs 4 CPU, but the largest machine has 2"):
        at_once(tmp_path, [{"CPU": 2}, {"CPU": 2}], monkeypatch, trials={"cpus": 4})


def test_a_trial_costs_the_devices_that_it_holds() -> None:
    assert Need({"CPU": 0.01}, {"CPU": 4.0, "GPU": 0.0}, {"CPU": 1.0}).devices == 4.0
    assert Need({"CPU": 0.01}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0}).devices == 2.0
