"""`fewshot methods`: the list, the settings of one, and what is said to a misspelt name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from fsl.backbones import AnyBackboneConfig
from fsl.backbones.conv4 import Conv4Config
from fsl.config import Section
from fsl.search_space import Choice, Uniform
from fsl.settings_table import Setting, as_markdown, as_text, settings
from pipelines.cli import main


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["methods", *arguments]) == 0
    return capsys.readouterr().out


def test_the_list_has_methods_backbones_and_heads_with_one_line_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = output(capsys).splitlines()
    assert lines[0] == "methods"
    for name in ("masked_distillation", "smkd", "conv4", "conv_vit", "vit", "ridge", "prototype"):
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.endswith(".")
    assert "heads" in lines


def test_a_head_prints_its_settings_and_those_of_all_heads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = output(capsys, "ridge")
    assert text.startswith("ridge (head): Ridge regression")
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["strength"]]
    assert "> 0" in line
    assert "0.001 .. 1000" in line
    assert any(line.split()[:1] == ["features"] for line in text.splitlines())
    assert not any(line.split()[:1] == ["name"] for line in text.splitlines())


def test_a_name_prints_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "smkd")
    assert "smkd (method): " in text
    assert "Consumes MultiViewBatch." in text
    for key in ("matching", "crops.local_views", "masks.shape", "head.prototypes"):
        assert any(line.split()[:1] == [key] for line in text.splitlines())
    assert "paper | released" in text


def test_markdown_is_for_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output(capsys, "conv4", "--markdown").splitlines()
    assert lines[0].startswith("| key | type | default |")
    assert lines[2] == (
        "| `width` | int | 64 | >= 1, <= 2048 | one of 32, 64, 128 | "
        "Channels of every convolution. |"
    )


def test_a_misspelt_name_gets_the_near_match_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["methods", "smdk"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "unknown method, addition, backbone or head 'smdk'; did you mean 'smkd'?" in captured.err


class Part(Section):
    ratio: Annotated[float, Field(ge=0, lt=1), Uniform(0.1, 0.9)] = 0.5
    """A part of the whole."""


class Whole(Section):
    """Everything that a table must be able to show."""

    needed: int
    """No default."""
    place: Path | None = None
    """A file."""
    mode: Annotated[Literal["a", "b"], Choice("a", "b")] = "a"
    """One of two,
    in a doc of two lines."""
    pair: tuple[Annotated[int, Field(ge=0)], float] = (1, 0.5)
    parts: dict[str, Part] = Field(default_factory=dict)
    part: Part = Part()
    other: Part | None = None
    workers: Annotated[int, Field(ge=1)] | tuple[int, int] = 1
    net: AnyBackboneConfig = Conv4Config()
    maybe: AnyBackboneConfig | None = None


def test_a_row_shows_type_default_limits_range_and_doc() -> None:
    rows = {row.key: row for row in settings(Whole)}
    assert rows["needed"] == Setting("needed", "int", "required", "", "", "No default.")
    assert rows["place"][1:3] == ("path or null", "null")
    assert rows["mode"][1:5] == ("a | b", "a", "", "one of a, b")
    assert rows["mode"].doc == "One of two, in a doc of two lines."
    assert rows["pair"][1:4] == ("[int, float]", "[1, 0.5]", ">= 0")
    assert rows["parts"][1:3] == ("mapping to section", "{}")
    assert rows["part"][1:3] == ("section", "")
    assert rows["part.ratio"] == Setting(
        "part.ratio", "float", "0.5", ">= 0, < 1", "0.1 .. 0.9", "A part of the whole."
    )
    assert rows["other"][1:3] == ("section or null", "null")
    assert "other.ratio" in rows
    assert rows["workers"][1:4] == ("int or [int, int]", "1", ">= 1")
    assert rows["net"].type == "backbone by name"
    assert rows["maybe"][1:3] == ("backbone by name or null", "null")
    assert not any(key.startswith(("net.", "maybe.")) for key in rows)


def test_docs_are_wrapped_to_the_width() -> None:
    row = Setting("key", "int", "1", "", "", "word " * 40)
    text = as_text([row], width=60)
    assert all(len(line) <= 60 for line in text.splitlines())
    assert text.count("word") == 40


def test_pipes_do_not_break_the_markdown_table() -> None:
    line = as_markdown([Setting("key", "a | b", "a", "", "", "")]).splitlines()[-1]
    assert line == "| `key` | a \\| b | a |  |  |  |"
