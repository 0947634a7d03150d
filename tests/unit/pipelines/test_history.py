"""Which stages a result was made from, whatever they are called by now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from data_shards.location import Location
from pipelines.compare.lineage import seed_of, settings_digest
from pipelines.report.history import history


def record(root: Path, name: str, needs: Mapping[str, str], seed: int = 0) -> Location:
    """Write a finished train stage `<label>-<key>`; `needs` is label -> directory."""
    label, _, key = name.partition("-")
    inputs = [
        {"label": called, "kind": "train", "key": place.partition("-")[2], "dir": place}
        for called, place in needs.items()
    ]
    identity = {"label": label, "kind": "train", "key": key, "inputs": inputs}
    place = root / name
    place.mkdir()
    (place / "config.json").write_text(json.dumps({**identity, "config": {"seed": seed}}))
    (place / "result.json").write_text(json.dumps(identity))
    return Location.parse(place)


def test_a_label_that_was_used_again_is_not_confused(tmp_path: Path) -> None:
    """`train` became `pre`; `ft`, made from it, is as it was, and there is a new `train`."""
    record(tmp_path, "train-old", {}, seed=1)
    record(tmp_path, "train-new", {}, seed=2)
    record(tmp_path, "ft-f", {"train": "train-old"})
    for needs in (["ft", "train"], ["train", "ft"], ["ft", "pre", "train"]):
        places = {"ft": "ft-f", "train": "train-new", "pre": "train-old"}
        last = record(
            tmp_path, f"e{len(list(tmp_path.iterdir()))}-e", {n: places[n] for n in needs}
        )
        found = history([last])
        assert found["train"].path.name == "train-new"
        assert seed_of("train", found) == 2
        (older,) = found["ft"].needs
        assert found[older].path.name == "train-old"
        assert older == ("pre" if "pre" in needs else "train (old)")
        assert len(found) == 4
        assert settings_digest("ft", found)


def test_an_input_keeps_each_label_that_it_is_needed_by(tmp_path: Path) -> None:
    """In one recipe equal stages are one directory."""
    record(tmp_path, "a-a", {})
    last = record(tmp_path, "e-e", {"a": "a-a", "b": "a-a"})
    found = history([last])
    assert found["e"].needs == ("a", "b")
    assert found["a"].path == found["b"].path
    assert list(history([found["a"].path, last], ["now", "e"])) == ["now", "a", "b", "e"]


def test_an_input_that_is_gone_is_known_by_its_key(tmp_path: Path) -> None:
    last = record(tmp_path, "e-e", {"shards": "shards-s"})
    assert history([last])["shards"].key == "s"


def test_inputs_come_before_what_is_made_from_them(tmp_path: Path) -> None:
    record(tmp_path, "a-a", {})
    record(tmp_path, "b-b", {"a": "a-a"})
    last = record(tmp_path, "c-c", {"b": "b-b", "a": "a-a"})
    assert list(history([last])) == ["a", "b", "c"]


def test_several_results_share_what_they_were_made_from(tmp_path: Path) -> None:
    record(tmp_path, "train-1", {})
    record(tmp_path, "train-2", {})
    results = [
        record(tmp_path, "one-e", {"train": "train-1"}),
        record(tmp_path, "two-e", {"train": "train-2"}),
    ]
    found = history(results)
    assert found["one"].needs == ("train",)
    assert found["two"].needs == ("train (2)",)
    assert found["train (2)"].path.name == "train-2"
