"""The report page: complete, self-contained, and honest about what is missing."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from data_shards.location import Location
from fsl.errors import StageError
from pipelines.accuracies import SUMMARY, read_summary
from pipelines.compare import compare
from pipelines.report.charts import interval_chart, line_chart
from pipelines.report.history import history
from tests.finished_run import FinishedRun, whole_run

VOID = {"meta", "link", "img", "image", "br", "path", "use", "rect", "line", "stop"}


class Nesting(HTMLParser):
    """Checks that tags close in order, and collects addresses and section names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.sections: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [v for k, v in values.items() if k in ("src", "href", "xlink:href") and v]
        if tag == "section":
            self.sections.append(str(values["id"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("report")
    run = whole_run(root)
    page = (run.results["report"].path / "report.html").read_text()
    assert (root / "report.html").read_text() == page
    return page


@pytest.fixture(scope="module")
def parsed(html: str) -> Nesting:
    parser = Nesting()
    parser.feed(html)
    assert parser.open == []
    return parser


def test_every_section_is_there(parsed: Nesting) -> None:
    assert parsed.sections == [
        "accuracy", "episode", "patches", "masks", "training", "reproduce", "manifest",
    ]  # fmt: skip


def test_nothing_is_loaded_from_elsewhere(html: str, parsed: Nesting) -> None:
    assert all(address.startswith(("data:", "#")) for address in parsed.addresses)
    assert "<script" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_accuracies_show_both_intervals_and_the_comparison_in_words(html: str) -> None:
    assert "5-way 1-shot prototype" in html
    assert "the same 60 episodes for every model (seed 0)" in html
    assert len(re.findall(r"<b>\d+\.\d\d</b> ± \d+\.\d\d %", html)) == 6
    assert "(paired over 60 episodes)" in html
    assert "Over other classes: ±" in html


def test_names_are_escaped(html: str) -> None:
    assert "SMKD on &lt;strokes&gt;" in html
    assert "<strokes>" not in html


def test_the_manifest_names_settings_versions_and_code(html: str) -> None:
    for words in ("masked_distillation", "torch 2.", "<dt>code</dt>", "<dt>seeds</dt>", "13 min"):
        assert words in html


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path)
    run.shards()
    settings: dict[str, object] = {"tasks": 4, "baselines": ["pixels"], "shots": [1], "queries": 5}
    run.run("evaluate", "evaluate", settings, ["shards"])
    run.run("report", "report", {}, ["shards", "evaluate"])
    assert "No patch matches" not in (tmp_path / "report.html").read_text()
    run.model("pretrain", "masked_distillation", ["shards"])
    run.run("report", "report", {}, ["shards", "pretrain", "evaluate"])
    page = (tmp_path / "report.html").read_text()
    assert "No sample episode: no trained model of images was evaluated." in page
    assert "No patch matches: the recipe has no supervised stage (smkd)." in page
    assert 'id="patches"' not in page


def older(place: Location, protocols: bool) -> None:
    """Turn a summary into one from before races, or from before the settings of protocols."""
    summary = json.loads((place / SUMMARY).read_text())
    if not protocols:
        del summary["protocols"]
        summary["classifier_epochs"] = 301
    for entry in (*summary["results"], *summary["differences"]):
        del entry["class_at_most"]
    (place / SUMMARY).write_text(json.dumps(summary))


@pytest.mark.parametrize("protocols", [True, False])
def test_results_of_older_versions_are_shown_and_compared(protocols: bool, tmp_path: Path) -> None:
    run = FinishedRun(tmp_path)
    run.shards()
    run.model("pretrain", "masked_distillation", ["shards"])
    settings: dict[str, object] = {"tasks": 6, "baselines": ["pixels"], "shots": [1], "queries": 5}
    place = run.run("evaluate", "evaluate", settings, ["shards", "pretrain"]).path
    told = read_summary(place)
    older(place, protocols)
    assert read_summary(place)["results"] == told["results"]
    run.run("report", "report", {}, ["evaluate"])
    page = (tmp_path / "report.html").read_text()
    assert told["differences"][0]["words"][1:] in page
    (panel,) = compare([place]).panels
    assert {row.name: row.mean.mean for row in panel.rows} == {
        entry["model"]: pytest.approx(entry["mean"]) for entry in told["results"]
    }


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda summary: summary.pop("banks"), "has no banks"),
        (lambda summary: summary["results"][0].pop("mean"), "an entry of results has no mean"),
        (lambda summary: summary["differences"].append(3), "an entry of differences has no a, b,"),
    ],
)
def test_a_summary_that_no_version_wrote_is_refused_in_one_message(
    damage: Callable[[Any], object], reason: str, tmp_path: Path
) -> None:
    run = FinishedRun(tmp_path)
    run.shards()
    settings: dict[str, object] = {"tasks": 4, "baselines": ["pixels"], "shots": [1], "queries": 5}
    place = run.run("evaluate", "evaluate", settings, ["shards"]).path
    whole = json.loads((place / SUMMARY).read_text())
    damage(whole)
    text = json.dumps(whole)
    for content, words in (
        (text, reason),
        (text[:50], "Unterminated string"),
        ("[]", "not a JSON"),
    ):
        (place / SUMMARY).write_text(content)
        message = (
            f"{place}: summary.json is not that of an evaluation: {words}.*; delete {place} and"
        )
        with pytest.raises(StageError, match=message):
            run.run("report", "report", {}, ["evaluate"])
        with pytest.raises(StageError, match=message):
            compare([place])
    (place / SUMMARY).delete()
    with pytest.raises(StageError, match=r"is not that of an evaluation: .*summary.json"):
        run.run("report", "report", {}, ["evaluate"])


def test_history_finds_all_that_a_result_was_made_from(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path)
    run.shards()
    run.model("pretrain", "masked_distillation", ["shards"])
    last = run.model("distill", "smkd", ["shards", "pretrain"])
    assert list(history([last.path])) == ["shards", "pretrain", "distill"]


def test_history_calls_a_renamed_stage_as_its_user_does(tmp_path: Path) -> None:
    run = FinishedRun(tmp_path)
    run.shards()
    run.model("pretrain", "masked_distillation", ["shards"])
    last = run.model("distill", "smkd", ["shards", "pretrain"])
    config = last.path / "config.json"
    content = json.loads(config.read_text())
    for item in content["inputs"]:
        item["label"] = item["label"].replace("pretrain", "first")
    config.write_text(json.dumps(content))
    found = history([last.path])
    assert list(found) == ["shards", "first", "distill"]
    assert found["first"].path.name.startswith("pretrain-")


def test_charts_follow_the_colour_of_the_text() -> None:
    chart = line_chart({"loss": [(1, 2.0), (2, 1.0)]}) + interval_chart([("a", 50.0, 1.0, None)])
    assert "currentColor" in chart
    assert "#010203" not in chart
