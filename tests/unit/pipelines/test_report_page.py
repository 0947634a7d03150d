"""The words and charts of the report's evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_shards.location import Location
from pipelines.accuracies import read_summary
from pipelines.report.page import Page, evaluation
from tests.evaluated_run import CLASSES, EvaluatedRun


@pytest.fixture
def summary(tmp_path: Path) -> dict[str, Any]:
    place = EvaluatedRun(tmp_path, {"first": 0.5, "second": 0.6}).write()
    return read_summary(Location.parse(place))


@pytest.mark.parametrize(("missing", "words"), [(1, "1 class of"), (3, "3 classes of")])
def test_classes_that_were_never_asked_are_left_out(
    summary: dict[str, Any], missing: int, words: str
) -> None:
    assert evaluation(summary)["unasked"] == ""
    for entry in summary["results"]:
        entry["per_class"][:missing] = [None] * missing
    shown = evaluation(summary)
    assert shown["class_count"] == CLASSES - missing
    assert shown["unasked"].startswith(words)
    assert "class 0<" not in shown["class_chart"]
    assert f"class {missing}<" in shown["class_chart"]
    page = Page("A page", [summary], {}).render()
    assert f"Accuracy on {CLASSES - missing} novel classes" in page
    assert shown["unasked"] in page


def test_a_class_that_some_episodes_asked_for_counts(summary: dict[str, Any]) -> None:
    summary["results"][0]["per_class"][0] = None
    assert evaluation(summary)["class_count"] == CLASSES


def test_each_kind_of_interval_over_classes_is_explained(summary: dict[str, Any]) -> None:
    jackknife = "±: jackknife over classes"
    assert evaluation(summary)["across"] == jackknife
    for entry in summary["results"]:
        entry["class_at_most"] = True
    page = Page("A page", [summary], {}).render()
    assert "≤: a bound from the classes&#39; own accuracies, where every episode has all" in page
    assert "jackknife" not in page
    summary["results"][0].update(class_at_most=False, class_half_width=None)
    summary["results"][1].update(class_at_most=False)
    words = evaluation(summary)["across"].split("; ")
    assert [part[0] for part in words] == ["±", "≤", "—"]
