"""Keys of stages: what changes them, what does not, and which inputs a stage takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fsl.config import build
from fsl.errors import ConfigError, FewShotError
from pipelines.runner import plan
from pipelines.stage import STAGES, Count


def key(recipe: Any, label: str, **values: Any) -> str:
    return str(plan(recipe(**values))[label].key)


def test_equal_settings_give_equal_keys(recipe: Any) -> None:
    assert key(recipe, "second") == key(recipe, "second")


@pytest.mark.parametrize(
    "change", [{"stages__second__add": 2.0}, {"stages__first__value": 2.0}, {"seed": 1}]
)
def test_settings_inputs_and_seed_change_the_key(recipe: Any, change: dict[str, Any]) -> None:
    assert key(recipe, "second") != key(recipe, "second", **change)


def test_settings_of_a_later_stage_leave_the_earlier_key(recipe: Any) -> None:
    assert key(recipe, "first") == key(recipe, "first", stages__second__add=2.0)


def test_the_content_of_outside_data_changes_the_key(recipe: Any, tmp_path: Path) -> None:
    outside = tmp_path / "data.txt"
    keys = []
    for content in ("a", "b"):
        outside.write_text(content)
        keys.append(key(recipe, "second", stages__first__outside=str(outside)))
    assert keys[0] != keys[1]


def test_a_raised_version_changes_the_key(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(recipe, "second")
    monkeypatch.setattr(STAGES.get("toy_number"), "version", 2)
    assert key(recipe, "second") != before


def test_labels_of_inputs_do_not_change_the_key(recipe: Any) -> None:
    renamed = {
        "one": {"kind": "toy_number"},
        "second": {"kind": "toy_double", "needs": ["one"]},
    }
    assert key(recipe, "second") == key(recipe, "second", stages=renamed)


def test_own_seed_is_not_replaced_by_the_recipes(recipe: Any) -> None:
    own = {"stages__first__seed": 7, "stages__second__seed": 7}
    assert key(recipe, "second", seed=1, **own) == key(recipe, "second", seed=2, **own)


def test_a_missing_input_is_explained_with_kinds_that_would_do(recipe: Any) -> None:
    with pytest.raises(FewShotError, match=r"toy_double stage needs exactly one .*kind toy_number"):
        plan(recipe(stages__second__needs=[]))


def test_an_input_of_a_wrong_sort_is_refused(recipe: Any) -> None:
    with pytest.raises(FewShotError, match=r"toy_number stage cannot use 'second', a toy_double"):
        plan(recipe(stages__third={"kind": "toy_number", "needs": ["second"]}))


def test_a_stages_own_check_sees_its_inputs(recipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"stages\.second.*'first' must be positive"):
        plan(recipe(stages__first__value=-1.0))


def test_unknown_kind_names_the_near_match(recipe: Any) -> None:
    with pytest.raises(ConfigError, match="did you mean 'toy_number'"):
        recipe(stages__first={"kind": "toy_numbr"})


def test_settings_of_a_stage_survive_a_round_trip(recipe: Any) -> None:
    config = recipe(stages__second__add=2.0)
    assert build(type(config), config.model_dump(mode="json")) == config


def test_counts_read_as_words() -> None:
    assert [str(Count(1, 1)), str(Count(2, None))] == ["exactly one", "2 to any number"]
