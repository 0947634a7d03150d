"""The report of a study: what it says of finished, running, empty and odd studies."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from data_shards.location import Location
from fsl.errors import ConfigError
from pipelines.compare import compare
from pipelines.compare.files import write
from tests.evaluated_run import EvaluatedRun
from tests.unit.tuning.example_study import (
    FAILED,
    REPEATED,
    RUNNING,
    empty_study,
    example_config,
    example_study,
    two_goal_study,
    two_goals,
)
from tuning.outcome import own_trials
from tuning.report.cost import budget_words, cost_rows, stage_rows
from tuning.report.page import render, state_words, write_report
from tuning.report.recipes import recipe_rows
from tuning.report.view import StudyView
from tuning.store import open_study

SECTIONS = ("best", "history", "recipes", "curves", "importance", "parallel", "slices", "lost",
            "cost", "trials", "study")  # fmt: skip


class Page(HTMLParser):
    """Sections with their text, ids, links, and everything that a browser would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.drawings: dict[str, int] = {}
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.fetched: list[str] = []
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id") and tag not in ("path", "clippath"):  # equal drawings share these
            self.ids.append(str(values["id"]))
        if tag == "section":
            self._section = str(values["id"])
            self.sections[self._section], self.drawings[self._section] = "", 0
        if tag == "svg":
            self.drawings[self._section] += 1
        if tag == "a":
            self.links.add(str(values.get("href") or values.get("xlink:href")))
        elif values.get("src") or (tag == "link" and values.get("href") != "data:,"):
            self.fetched.append(tag)

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    root = Location.parse(tmp_path_factory.mktemp("study"))
    (root / "best.yaml").write_text("# trial 35\nstages: {}\n")
    return Page(render(root, example_config(), example_study()))


@pytest.fixture(scope="module")
def view() -> StudyView:
    return StudyView(example_config(), example_study())


def test_every_section_is_there_and_the_page_needs_nothing_else(page: Page) -> None:
    assert tuple(page.sections) == SECTIONS
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))


def test_every_link_leads_to_a_place_on_the_page(page: Page) -> None:
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert f"#trial{FAILED}" in page.links
    assert f"#trial{RUNNING[0]}" in page.links


def test_the_best_is_told_in_percent_with_its_settings_and_recipe(
    page: Page, view: StudyView
) -> None:
    best, words = view.complete[0], page.sections["best"]
    assert f"{100 * best.values[0]:.1f} %" in words
    assert f"trial {best.number}, recipe {best.recipe}" in words
    assert all(key in words for key in best.settings)
    assert "The best of many looks better than it is" in words
    assert "# trial 35" in words


def test_settings_are_called_by_their_dotted_names_without_the_recipe(page: Page) -> None:
    for section in ("importance", "parallel", "slices"):
        words = page.sections[section]
        assert "method.crops.quarter_turns" in words
        assert "smkd.method" not in words
        assert "_param" not in words


def test_values_are_written_as_in_a_recipe(page: Page) -> None:
    words = page.sections["trials"]
    assert "method.crops.quarter_turns=true" in words
    assert re.search(r"method\.crops\.global_scale=\[0\.4, ?1\.0\]", words)
    assert not re.search(r"\d\.\d{8}", words)


def test_each_recipe_has_pictures_of_its_own(page: Page) -> None:
    assert page.drawings["parallel"] == page.drawings["importance"] == 2
    assert page.drawings["slices"] == 4 + 8  # as many as either has settings
    assert page.drawings["history"] == page.drawings["curves"] == 1


def test_reasons_of_trials_that_could_not_be_run_are_listed(page: Page) -> None:
    words = page.sections["lost"]
    assert "the loss is not finite (nan)" in words
    assert "its process died" in words
    assert f"trial {FAILED}" in words


def test_trials_that_were_never_run_or_come_from_elsewhere_do_not_count(view: StudyView) -> None:
    numbers = {trial.number for trial in view.trials}
    assert REPEATED not in numbers
    assert [trial.source for trial in view.known] == ["studies/earlier"]
    assert sum(view.counts().values()) == len(view.trials) == 38


def test_costs_add_up_and_shared_stages_are_counted(view: StudyView) -> None:
    *parts, whole = cost_rows(view)
    assert whole.trials == sum(row.trials for row in parts) == 38
    assert whole.hours == pytest.approx(sum(row.hours for row in parts))
    assert sum(row.share for row in parts) == pytest.approx(1)
    pretrain = next(row for row in stage_rows(view) if row.label == "pretrain")
    assert (pretrain.settings, pretrain.ran, pretrain.reused) == (1, 1, len(view.of("smkd")) - 1)
    assert budget_words(view)[0] == "38 of 60 trials"
    assert budget_words(view)[1].endswith("of 3 device hours")


def test_recipes_are_ranked_by_their_best_trial(view: StudyView) -> None:
    rows = recipe_rows(view)
    assert [row.label for row in rows] == ["protonet", "smkd"]
    assert rows[0].best is view.complete[0]
    assert [row.trials for row in rows] == [len(view.of(row.label)) for row in rows]


def test_an_empty_study_is_shown_as_such(tmp_path: Path) -> None:
    page = Page(render(Location.parse(tmp_path), example_config(), empty_study()))
    assert tuple(page.sections) == ("best", "study")
    assert "No trial is finished yet" in page.sections["best"]
    assert state_words(StudyView(example_config(), empty_study())) == "no trial has begun"


@pytest.mark.parametrize("trials", [1, 2, 3, 6, 12])
def test_a_study_can_be_looked_at_while_it_runs(tmp_path: Path, trials: int) -> None:
    study = example_study(trials)
    page = Page(render(Location.parse(tmp_path), example_config(), study))
    finished = any(t.values and not t.user_attrs.get("source") for t in study.get_trials())
    assert ("parallel" in page.sections) is finished
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_two_goals_give_a_front_instead_of_a_best(tmp_path: Path) -> None:
    config = example_config(goals=two_goals(), pruner={"name": "none"})
    study = two_goal_study()
    view = StudyView(config, study)
    own = {trial.number for trial in study.best_trials} - {trial.number for trial in view.known}
    assert {trial.number for trial in view.front} == own
    page = Page(render(Location.parse(tmp_path), config, study))
    assert "Pareto front" in page.sections["best"]
    assert "time of a step in ms" in page.sections["best"]
    assert page.drawings["history"] == 2
    assert "curves" not in page.sections
    assert page.drawings["slices"] == 2 * (4 + 8)


def finalists(root: Path, tmp: Path, ways: int) -> None:
    """The files of a comparison of trials 35 and 32."""
    settings = {"tasks": 60, "shots": [1], "split": "val", "seed": 1}
    EvaluatedRun(tmp, {"trial_0035": 0.86, "trial_0032": 0.8}, settings=settings).write()
    write(compare([tmp]), Location.parse(root / "finalists.json"))
    if ways != 5:
        place = root / "finalists.json"
        place.write_text(place.read_text().replace('"ways": 5', f'"ways": {ways}'))


@pytest.mark.parametrize("ways", [5, 20])
def test_finalists_are_compared_and_the_winners_curse_is_stated(tmp_path: Path, ways: int) -> None:
    root = tmp_path / "study"
    root.mkdir()
    finalists(root, tmp_path / "run", ways)
    page = Page(render(Location.parse(root), example_config(), example_study()))
    words = page.sections["finalists"]
    assert "winner's curse" in words
    assert "60 tasks" in words
    assert re.search(r"trial 35\s*\d\d\.\d\d ± \d", words)
    assert "trial_0035" not in words
    assert "difference from the best" in words
    assert ("Diamond: what the same trial had" in words) is (
        ways == 5
    )  # else the tasks are of another kind
    assert "On fresh tasks: see the finalists" in page.sections["best"]
    assert page.fetched == []


def test_without_accuracy_among_the_goals_no_luck_with_tasks_is_claimed(tmp_path: Path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    finalists(root, tmp_path / "run", 5)
    goals = [two_goals()[1]]
    config = example_config(goals=goals, pruner={"name": "none"})
    words = Page(render(Location.parse(root), config, example_study())).sections["finalists"]
    assert "The search did not choose by accuracy" in words
    assert "winner's curse" not in words


def test_the_report_is_written_from_the_study_directory(tmp_path: Path) -> None:
    from tests.toy_study import write_study
    from tuning.config import load_study

    config = load_study(write_study(tmp_path))
    with pytest.raises(ConfigError, match="no study is here"):
        write_report(config.root)
    with open_study(config):
        pass
    place = write_report(config.root)
    assert place.name == "report.html"
    assert "no trial has begun" in place.read_text()


def test_a_best_recipe_of_an_earlier_round_is_called_that(tmp_path: Path) -> None:
    study, config = example_study(), example_config()
    complete = sum(trial.state.name == "COMPLETE" for trial in own_trials(study))
    older = "Trials have ended since the best recipe"
    for said, expected in ((complete, False), (complete - 1, True)):
        (tmp_path / "best.yaml").write_text(
            f"# {complete + 9} trials, {said} of them complete; ..."
        )
        page = render(Location.parse(tmp_path), config, study)
        assert (older in page) is expected
