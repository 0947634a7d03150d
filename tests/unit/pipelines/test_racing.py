"""Races in the evaluate stage: same winner, fewer answers, and what is told of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_shards.location import Location
from fsl.config import build
from fsl.episode_heads import ClassifierConfig, HeadConfig, RidgeConfig
from fsl.errors import ConfigError
from fsl.evaluation import EpisodeScores
from pipelines.accuracies import read_summary, read_table
from pipelines.candidates import Candidate
from pipelines.compare import compare
from pipelines.competitors import Competitor, Questions, competitors
from pipelines.features import model_features
from pipelines.protocols import OwnConfig
from pipelines.racing import RaceConfig, race_banks, run_race
from pipelines.stage import STAGES, PlannedStage
from pipelines.stages.evaluate import EvaluateConfig, EvaluateStage
from tests.finished_run import FinishedRun

TASKS = 200
SETTINGS: dict[str, object] = {
    "tasks": TASKS, "queries": 5, "baselines": ["pixels"], "shots": [1, 2],
    "protocols": ["method", "ridge", {"name": "classifier", "epochs": 1}],
}  # fmt: skip
RACED = {**SETTINGS, "race": {"alpha": 0.05, "block": 20}}
NEEDS = ["shards", "distill"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    made = FinishedRun(tmp_path_factory.mktemp("racing"))
    made.shards()
    made.model("distill", "smkd", ["shards"])
    made.run("everything", "evaluate", SETTINGS, NEEDS)
    made.run("raced", "evaluate", RACED, NEEDS)
    return made


def races(run: FinishedRun) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_summary(run.results["raced"].path)["races"]
    return found


def test_the_winner_is_that_of_answering_everything(run: FinishedRun) -> None:
    results = read_summary(run.results["everything"].path)["results"]
    for race in races(run):
        bank = [entry for entry in results if entry["shots"] == race["shots"]]
        best = max(bank, key=lambda entry: entry["mean"])
        assert race["winner"] == {"model": best["model"], "protocol": best["protocol"]}
        assert race["mean"] == pytest.approx(best["mean"])


def test_the_table_holds_what_was_answered_the_same_as_without_a_race(run: FinishedRun) -> None:
    everything = read_table(run.results["everything"].path)
    raced = read_table(run.results["raced"].path)
    assert [(a.model, a.setting) for a in raced] == [(a.model, a.setting) for a in everything]
    answered = [len(item.classes) for item in raced]
    told = {
        (entry["model"], entry["protocol"], race["shots"]): entry["episodes"]
        for race in races(run)
        for entry in race["competitors"]
    }
    assert [told[a.model, a.setting.protocol, a.setting.shots] for a in raced] == answered
    assert min(answered) < TASKS == max(answered)
    for part, whole, count in zip(raced, everything, answered, strict=True):
        assert torch.equal(part.classes, whole.classes[:count])
        assert torch.equal(part.scores.correct, whole.scores.correct[:count])


def test_the_summary_says_who_left_when_and_what_it_cost(run: FinishedRun) -> None:
    metrics = run.results["raced"].metrics
    for race in races(run):
        entries = race["competitors"]
        for entry in entries:
            assert entry["eliminated_at"] in {None, entry["episodes"]}
            assert entry["eliminated_at"] is not None or entry["episodes"] == TASKS
        share = sum(entry["episodes"] for entry in entries) / (TASKS * len(entries))
        assert race["share"] == pytest.approx(share)
        assert f"best of {len(entries)}: {race['winner']['model']} (" in race["words"]
        bank = f"5w{race['shots']}s"
        assert metrics[f"race_share_{bank}"] == race["share"] < 1
        assert metrics[f"race_winner_{bank}"] == race["mean"]


def test_only_complete_answers_enter_the_differences(run: FinishedRun) -> None:
    summary = read_summary(run.results["raced"].path)
    assert all(entry["tasks"] == TASKS for entry in summary["differences"])
    assert len(summary["results"]) == 2 * 2 * 3


def test_compare_leaves_out_who_was_eliminated_and_says_so(run: FinishedRun) -> None:
    table = read_table(run.results["raced"].path)
    place = run.results["raced"].path
    whole = {(a.model, a.setting.protocol) for a in table if len(a.classes) == TASKS}
    assert len(whole) < 6
    found = compare([place, run.results["everything"].path])
    assert {row.answers[0].accuracies.numel() for p in found.panels for row in p.rows} == {TASKS}
    (note,) = [note for note in found.notes if "5-way 1-shot: left out" in note]
    assert note.startswith(str(place))
    assert "dropped by the race" in note
    assert "distill (classifier)" in note


def test_an_evaluation_without_race_says_nothing_of_races(run: FinishedRun) -> None:
    assert "races" not in read_summary(run.results["everything"].path)
    assert not any("race" in name for name in run.results["everything"].metrics)


def test_tables_of_a_model_are_read_once_however_many_blocks(
    run: FinishedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def counted(*arguments: Any, what: Any, **settings: Any) -> Tensor:
        asked.append(what)
        return model_features(*arguments, what=what, **settings)

    monkeypatch.setattr("pipelines.candidates.model_features", counted)
    run.run("raced", "evaluate", RACED, NEEDS)
    assert sorted(asked) == ["embed", "encode"]
    assert "5-way 1-shot: best of 6: " in capsys.readouterr().out


class Known(Candidate):
    """Answers a given share of four queries per way."""

    def __init__(self, name: str, right: Tensor) -> None:
        super().__init__(name, name)
        self.right = right  # (E, W)
        self.asked = 0

    @property
    def features(self) -> Tensor:
        raise AssertionError("nobody needs features here")

    def own_scores(self, labels: Tensor, support: Tensor, query: Tensor | None) -> EpisodeScores:
        rows = support[:, 0, 0]  # the questions carry their number here
        self.asked += len(rows)
        return EpisodeScores(self.right[rows], torch.full((len(rows), 2), 4))


def known(episodes: int, *shares: float) -> list[Known]:
    generator = torch.Generator().manual_seed(0)
    rights = [
        torch.binomial(torch.full((episodes, 2), 4.0), torch.tensor(p), generator=generator)
        for p in shares
    ]
    return [Known(f"candidate{i}", right.long()) for i, right in enumerate(rights)]


def numbered(episodes: int) -> Questions:
    support = torch.arange(episodes)[:, None, None].expand(-1, 2, 1)
    return Questions(torch.zeros(episodes), torch.zeros(episodes, 2), support, None)


def test_a_winner_left_alone_answers_the_rest_and_that_counts() -> None:
    candidates = known(500, 0.3, 0.95, 0.3, 0.3)
    field = [Competitor(item, OwnConfig(), "method", 0) for item in candidates]
    raced = run_race(field, numbered(500), RaceConfig(block=30), "race")
    assert raced.result.winner == 1
    assert raced.result.alive.tolist() == [False, True, False, False]
    asked = [item.asked for item in candidates]
    assert asked[1] == 500 == len(raced.scores[1].correct)
    assert max(asked[0], *asked[2:]) < 250
    assert raced.result.share == pytest.approx(sum(asked) / 2000)
    assert torch.equal(raced.scores[1].correct, candidates[1].right)
    assert float(raced.result.estimates[1]) == pytest.approx(
        float(candidates[1].right.double().mean() / 4)
    )


def test_fewer_than_three_competitors_are_refused_before_and_while_running() -> None:
    message = r"race: needs at least 3 competitors, got 2 \(models, features and baselines: 1; "
    with pytest.raises(ConfigError, match=message):
        race_banks(known(9, 0.5), [OwnConfig(), RidgeConfig()], {}, RaceConfig(), 0)
    shards = STAGES.get("write_shards")
    source = build(shards.Config, {"kind": "write_shards", "source": {"name": "strokes"}})
    planned = PlannedStage("shards", shards(source), "key", Location.parse(Path("none")), "run")
    settings = {"race": {}, "baselines": ["pixels"], "protocols": ["method", "ridge"]}
    with pytest.raises(ConfigError, match=message):
        EvaluateStage(build(EvaluateConfig, settings)).check({"shards": planned})
    more = {**settings, "protocols": ["method", "ridge", "logistic"]}
    EvaluateStage(build(EvaluateConfig, more)).check({"shards": planned})


@pytest.mark.parametrize("race", [{"alpha": 0}, {"alpha": 0.6}, {"block": 0}, {"blocks": 5}])
def test_wrong_settings_of_a_race_are_refused(race: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"race"):
        build(EvaluateConfig, {"race": race})


class Table(Candidate):
    """Features of 30 classes of four images."""

    @property
    def features(self) -> Tensor:
        return torch.randn(120, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("query", [True, False], ids=["two queries", "all queries"])
@pytest.mark.parametrize(
    "protocol",
    [ClassifierConfig(epochs=2), ClassifierConfig(epochs=2, kind="softmax"), RidgeConfig()],
    ids=["cosine", "softmax", "ridge"],
)
def test_parts_of_a_bank_are_answered_like_the_whole(protocol: HeadConfig, query: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    classes = torch.rand(530, 30, generator=generator).argsort(-1)[:, :3]  # (E, W)
    rows = 4 * classes[..., None] + torch.rand(530, 3, 4, generator=generator).argsort(-1)
    labels = torch.arange(120) // 4
    asked = Questions(labels, classes, rows[..., :2], rows[..., 2:] if query else None)
    (one,) = competitors(Table("table", "table"), [protocol], seed=3)
    whole = one.answer(asked)
    for episodes in (slice(0, 40), slice(40, 70), slice(470, 520), slice(500, 530)):
        part = one.answer(asked.part(episodes))
        assert torch.equal(part.correct, whole.correct[episodes])
        assert torch.equal(part.queries, whole.queries[episodes])
