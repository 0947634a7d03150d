"""The trials of a study as a table: Parquet for programs, a leaderboard for the terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from data_shards.location import Location
from pipelines.commands import duration
from tuning.config import StudyConfig
from tuning.report.view import StudyView, TrialView, outcome_of, ran
from tuning.report.words import counted
from tuning.words import setting_words

TABLE = "trials.parquet"
LEADERS = 10
LEAST_SETTINGS = 24
"""Letters that settings need to be of use in the leaderboard."""
MOMENT = pa.timestamp("ms", tz="UTC")
TEXTS = pa.list_(pa.string())
Column = tuple[pa.DataType, Callable[[FrozenTrial], Any]]


def trial_table(study: optuna.Study) -> pa.Table:
    """Return a row per trial that began, by number.

    Columns: `number`, `state` (Optuna's), `outcome` (complete, pruned, infeasible, failed or
    running), `recipe`, a column for each goal under its name, `percents` and `accuracies` of the
    validations, `epochs`, `seconds`, `device_seconds`, `attempts`, `reason`, `ran`, `reused`,
    `stages` (as JSON), `started`, `finished`, `source` (of trials from earlier studies); then
    `metrics.*`, what the judged stage reported, and `params.*`, the settings, null where a trial
    has no such setting.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if ran(trial)]
    columns: dict[str, Column] = {
        "number": (pa.int64(), lambda t: t.number),
        "state": (pa.string(), lambda t: t.state.name),
        "outcome": (pa.string(), outcome_of),
        "recipe": (pa.string(), _noted("recipe")),
        **_goals(study),
        "percents": (pa.list_(pa.int64()), lambda t: sorted(t.intermediate_values)),
        "accuracies": (
            pa.list_(pa.float64()),
            lambda t: [t.intermediate_values[p] for p in sorted(t.intermediate_values)],
        ),
        "epochs": (pa.float64(), _noted("epochs")),
        "seconds": (pa.float64(), _noted("seconds")),
        "device_seconds": (pa.float64(), _noted("device_seconds")),
        "attempts": (pa.int64(), _noted("attempts")),
        "reason": (pa.string(), _noted("reason")),
        "ran": (TEXTS, _noted("ran")),
        "reused": (TEXTS, _noted("reused")),
        "stages": (pa.string(), lambda t: json.dumps(t.user_attrs.get("stages", {}))),
        "started": (MOMENT, _moment("started")),
        "finished": (MOMENT, _moment("finished")),
        "source": (pa.string(), _noted("source")),
        **_metrics(trials),
        **_params(trials),
    }
    return pa.table(
        {
            name: pa.array([value(trial) for trial in trials], kind)
            for name, (kind, value) in columns.items()
        }
    )


def write_table(root: Location, study: optuna.Study) -> Location:
    """Write `trials.parquet` into a study's directory; return where it is."""
    stream = io.BytesIO()
    pq.write_table(trial_table(study), stream, compression="zstd")
    place = root / TABLE
    place.write_bytes(stream.getvalue())
    return place


def leaderboard(config: StudyConfig, study: optuna.Study, width: int = 100) -> str:
    """Return the best trials as aligned lines of at most `width` letters.

    With several goals: the Pareto front. With several recipes the best of each is among them.
    """
    view = StudyView(config, study)
    if not view.complete:
        return f"{counted(len(view.trials), 'trial')}, none of them finished"
    several = len(view.recipes) > 1
    shown = view.ranked(view.front) if len(view.measures) > 1 else _leaders(view)
    head = ["trial", *(["recipe"] if several else [])]
    head += [measure.short for measure in view.measures] + ["epochs", "time"]
    rows = [head, *(_row(view, trial, several) for trial in shown)]
    lines = _aligned(rows, left=2 if several else 1)
    room = width - len(lines[0]) - 2
    if room >= LEAST_SETTINGS:
        settings = ["settings", *(_settings(trial, room) for trial in shown)]
        lines = [f"{line}  {words}" for line, words in zip(lines, settings, strict=True)]
    kind = "on the Pareto front of" if len(view.measures) > 1 else "best of"
    finished = f"{counted(len(view.complete), 'finished trial')} ({len(view.trials)} begun)"
    return "\n".join([f"{len(shown)} {kind} {finished}", *(line.rstrip() for line in lines)])


def _goals(study: optuna.Study) -> dict[str, Column]:
    names = study.metric_names or (
        ["value"]
        if len(study.directions) == 1
        else [f"value_{i}" for i in range(len(study.directions))]
    )

    def value(at: int) -> Callable[[FrozenTrial], float | None]:
        # Optuna gives pruned trials the last value on their way
        return lambda trial: trial.values[at] if trial.state == TrialState.COMPLETE else None

    return {name: (pa.float64(), value(at)) for at, name in enumerate(names)}


def _noted(name: str) -> Callable[[FrozenTrial], Any]:
    return lambda trial: trial.user_attrs.get(name)


def _moment(name: str) -> Callable[[FrozenTrial], datetime | None]:
    def value(trial: FrozenTrial) -> datetime | None:
        text = trial.user_attrs.get(name)
        return None if text is None else datetime.fromisoformat(text)

    return value


def _metrics(trials: Sequence[FrozenTrial]) -> dict[str, Column]:
    names = dict.fromkeys(name for trial in trials for name in trial.user_attrs.get("metrics", {}))

    def value(name: str) -> Callable[[FrozenTrial], Any]:
        return lambda trial: trial.user_attrs.get("metrics", {}).get(name)

    return {f"metrics.{name}": (pa.float64(), value(name)) for name in sorted(names)}


def _params(trials: Sequence[FrozenTrial]) -> dict[str, Column]:
    domains: dict[str, BaseDistribution] = {}
    for trial in trials:
        domains |= trial.distributions

    def column(name: str) -> Column:
        kind = _kind(domains[name])
        if kind == pa.string():
            return kind, lambda trial: _text(trial.params.get(name))
        return kind, lambda trial: trial.params.get(name)

    return {f"params.{name}": column(name) for name in sorted(domains)}


def _kind(domain: BaseDistribution) -> pa.DataType:
    if isinstance(domain, FloatDistribution):
        return pa.float64()
    if isinstance(domain, IntDistribution):
        return pa.int64()
    assert isinstance(domain, CategoricalDistribution)
    kinds = {type(choice) for choice in domain.choices if choice is not None}
    for kind, plain in ((pa.bool_(), {bool}), (pa.int64(), {int}), (pa.float64(), {int, float})):
        if kinds and kinds <= plain:
            return kind
    return pa.string()


def _text(value: Any) -> str | None:
    """Return a choice as text, so that choices of different types share a column."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _leaders(view: StudyView) -> list[TrialView]:
    """Return the best trials, and the best of each recipe that has none among them."""
    shown = view.complete[:LEADERS]
    for trial in view.complete[LEADERS:]:
        if all(trial.recipe != other.recipe for other in shown):
            shown.append(trial)
    return shown


def _row(view: StudyView, trial: TrialView, several: bool) -> list[str]:
    return [
        str(trial.number),
        *([trial.recipe] if several else []),
        *(m.number(value) for m, value in zip(view.measures, trial.values, strict=True)),
        f"{trial.amount('epochs'):.1f}",
        duration(trial.amount("seconds")),
    ]


def _settings(trial: TrialView, room: int) -> str:
    """Return as many settings as there is room for."""
    words = [f"{key}={setting_words(value)}" for key, value in _plain(trial.settings).items()]
    text = ""
    for number, word in enumerate(words):
        more = f"{text} {word}".strip()
        left = len(words) - number - 1
        if len(more) + (4 if left else 0) > room:
            return f"{text} ..." if text else "..."
        text = more
    return text


def _plain(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings with the shortest names that tell them apart."""
    short: dict[str, list[str]] = {}
    for key in settings:
        short.setdefault(key.rpartition(".")[2], []).append(key)
    return {
        (name if len(keys) == 1 else key): settings[key]
        for name, keys in short.items()
        for key in keys
    }


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return rows as lines; the first `left` columns begin alike, the others end alike."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(size) if at < left else cell.rjust(size)
            for at, (cell, size) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
