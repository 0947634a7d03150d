"""The report of a study: what it says of finished, running, empty and odd studies."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

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
from tuning.config import GoalConfig
from tuning.report import importance, pareto
from tuning.report.cost import budget_words, cost_rows, stage_rows
from tuning.report.finals import named
from tuning.report.page import render, state_words, write_report
from tuning.report.paper import limits
from tuning.report.recipes import recipe_rows
from tuning.report.scale import scale_of
from tuning.report.view import StudyView
from tuning.report.words import counted, listed, measure
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


def small_study(
    values: list[float | None],
    domains: Mapping[str, BaseDistribution],
    seed: int = 0,
) -> optuna.Study:
    """One recipe, trials with these values (None: stopped early) and settings at random."""
    study = optuna.create_study(direction="maximize")
    chance = random.Random(seed)
    for value in values:
        params: dict[str, Any] = {}
        for name, domain in domains.items():
            if isinstance(domain, CategoricalDistribution):
                params[name] = chance.choice(domain.choices)
            elif isinstance(domain, IntDistribution):
                params[name] = chance.randrange(domain.low, domain.high + 1, domain.step)
            else:
                assert isinstance(domain, FloatDistribution)
                params[name] = chance.uniform(domain.low, domain.high)
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
                value=value,
                params=params,
                distributions=dict(domains),
                intermediate_values={25: 0.3 if value is None else value},
                user_attrs={"recipe": "x", "outcome": "pruned" if value is None else "complete"},
            )
        )
    return study


def one_recipe(**changes: Any) -> Any:
    return example_config(recipes={"x": {"recipe": "x.yaml"}}, **changes)


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


def test_a_setting_that_decides_is_the_most_important() -> None:
    domains = {f"method.s{i}": FloatDistribution(0, 1) for i in range(4)}
    study = small_study([0.0] * 60, domains)
    rebuilt = optuna.create_study(direction="maximize")
    for trial in study.get_trials():
        trial.values = [0.8 - abs(trial.params["method.s2"] - 0.5)]
        rebuilt.add_trial(trial)
    found = importance.importances(StudyView(one_recipe(), rebuilt), "x")
    assert found[0].key == "method.s2"
    assert found[0].low > max(other.share for other in found[1:])
    assert sum(entry.share for entry in found) == pytest.approx(1)


def test_importance_is_silent_about_few_trials_and_settings_that_never_varied() -> None:
    domains = {"a": FloatDistribution(0, 1), "b": CategoricalDistribution(["one"])}
    few = StudyView(one_recipe(), small_study([0.5] * (importance.FEWEST - 1), domains))
    assert importance.importances(few, "x") == []
    more = StudyView(one_recipe(), small_study([0.5, 0.6] * importance.FEWEST, domains))
    assert [entry.key for entry in importance.importances(more, "x")] == ["a"]


def test_trials_that_were_stopped_early_rank_behind_all_finished_ones() -> None:
    study = small_study([0.2, None, 0.1, None], {"a": FloatDistribution(0, 1)})
    view = StudyView(one_recipe(), study)
    places = [importance._place(trial, -1) for trial in view.trials]
    assert sorted(range(4), key=places.__getitem__)[:2] == [0, 2]


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


def test_three_goals_have_a_chart_for_each_pair() -> None:
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    for i in range(6):
        study.add_trial(
            create_trial(values=[0.1 * i, 5.0 - i, 1.0 + i], user_attrs={"outcome": "complete"})
        )
    metrics = ("val_accuracy", "cpu_minutes", "step_seconds")
    goals = [GoalConfig.model_validate({"metric": metric}) for metric in metrics]
    view = StudyView(one_recipe(goals=goals, pruner={"name": "none"}), study)
    assert len(pareto.pareto(view)) == 3
    assert {trial.number for trial in view.front} == set(range(6))


def test_one_recipe_has_no_table_of_recipes_and_odd_values_do_no_harm(tmp_path: Path) -> None:
    domains: dict[str, BaseDistribution] = {
        "optim.lr": FloatDistribution(1e-5, 1e-1, log=True),
        "data.batch_size": IntDistribution(8, 512, log=True),
        "method.layers": IntDistribution(2, 2),
        "method.<odd> & name": CategoricalDistribution([None, 1, 0.5, "[1, 2]", True]),
    }
    study = small_study([0.81, 0.8, 0.02, None, 0.79, 0.8] * 3, domains)
    html = render(Location.parse(tmp_path), one_recipe(), study)
    assert "<odd>" not in html
    page = Page(html)
    assert "recipes" not in page.sections
    assert page.drawings["slices"] == 3  # not the one that cannot vary
    assert "null" in page.sections["trials"]


def test_a_run_that_learned_nothing_does_not_flatten_the_scale() -> None:
    low, high = limits([80.0, 81.0, 82.0, 83.0, 20.0], maximize=True)
    assert 78 < low < 80
    assert 83 < high < 85
    low, high = limits([3.0, 3.1, 3.2, 90.0], maximize=False)
    assert high < 4
    low, high = limits([5.0], maximize=True)
    assert low < 5 < high
    assert limits([], maximize=True) == (0.0, 1.0)


def test_differences_of_a_tenth_of_a_percent_do_not_fill_a_chart() -> None:
    assert limits([72.4, 72.7], maximize=True, least=2.0) == pytest.approx((71.55, 73.55))


def test_places_and_ticks_of_settings() -> None:
    rate = scale_of("optim.lr", FloatDistribution(3e-4, 1e-2, log=True))
    assert rate.place(3e-4) == 0
    assert rate.place(1e-2) == pytest.approx(1)
    assert [label for _, label in rate.ticks()] == ["0.0003", "0.001", "0.003", "0.01"]
    ways = scale_of("episodes.ways", IntDistribution(20, 60, step=10))
    assert [label for _, label in ways.ticks()] == ["20", "30", "40", "50", "60"]
    many = scale_of("views", IntDistribution(0, 12))
    assert [label for _, label in many.ticks()] == ["0", "3", "6", "9", "12"]
    sizes = scale_of("data.batch_size", CategoricalDistribution([64, 32, 128]))
    assert [label for _, label in sizes.ticks()] == ["32", "64", "128"]
    single = scale_of("x", FloatDistribution(0.5, 0.5))
    assert single.place(0.5) == 0.5


def test_numbers_have_sensible_digits() -> None:
    accuracy, seconds = (measure(goal) for goal in two_goals())
    assert accuracy.text(0.87468) == "87.5 %"
    assert seconds.text(0.123456) == "123 ms"
    assert seconds.text(2.3456) == "2346 ms"
    assert accuracy.better(0.9, 0.8)
    assert seconds.better(0.1, 0.2)
    assert (counted(1, "trial"), counted(2, "trial")) == ("1 trial", "2 trials")
    assert listed(["a", "b", "c"]) == "a, b and c"


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


def test_trials_in_sentences_are_called_as_on_the_page() -> None:
    sentence = "Best: trial_0007 with 80 %. trial_0012 cannot be told from it."
    assert named(sentence) == "Best: trial 7 with 80 %. Trial 12 cannot be told from it."


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
