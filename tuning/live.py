"""A sweep in the terminal: a table that is redrawn, or plain lines where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.commands import duration
from tuning.config import SCORE, StudyConfig
from tuning.outcome import Outcome
from tuning.standing import RunningTrial, Standing, standing
from tuning.words import METRIC_WORDS, OUTCOME_WORDS, settings, value_words

__all__ = ["LiveView", "RunningTrial", "finished_line", "picture", "summary_line"]
LOG_SECONDS = 60.0
"""Between two lines about the whole, where nobody watches."""
BAR = 20
"""Letters of a bar."""
MOST_RUNNING, MOST_ENDED = 10, 4
"""Lines of running trials, and of trials that ended."""
STYLES = {
    Outcome.COMPLETE: "green",
    Outcome.PRUNED: "cyan",
    Outcome.INFEASIBLE: "yellow",
    Outcome.FAILED: "red",
}
HINT = "Ctrl-C stops the search; the same command goes on where it was."


class LiveView:
    """Shows a sweep while it runs.

    Args:
        config: the study's settings.
        console: where; None takes stderr.
    """

    def __init__(self, config: StudyConfig, console: Console | None = None) -> None:
        self.config = config
        self.console = console or Console(stderr=True)
        self._live = Live(
            console=self.console,
            auto_refresh=False,  # Tune's loop asks for each picture: no thread of ours
            redirect_stdout=sys.stdout.isatty(),  # else what goes to a file came out on stderr
        )
        self._begun = self._said = time.time()
        self._announced: set[int] = set()

    def __enter__(self) -> LiveView:
        self._begun = self._said = time.time()
        if self.console.is_interactive:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, study: optuna.Study, running: Mapping[int, RunningTrial]) -> None:
        """Show how things are now.

        Args:
            study: the trials.
            running: those at work, by number.
        """
        now = standing(self.config, study, running)
        if self.console.is_interactive:
            self._live.update(picture(self.config, now, now.now - self._begun), refresh=True)
            return
        for trial in now.ended:
            self._announce(trial, now)
        if now.now - self._said >= LOG_SECONDS:
            self._say(summary_line(self.config, now))

    def _announce(self, trial: FrozenTrial, now: Standing) -> None:
        """Say once that a trial ended, if it did so in this call of the program."""
        if trial.number in self._announced:
            return
        self._announced.add(trial.number)
        moment = datetime.fromisoformat(trial.user_attrs["finished"]).timestamp()
        if moment >= self._begun:
            self._say(finished_line(self.config, trial, now.best))

    def _say(self, line: str) -> None:
        self._said = time.time()
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def finished_line(config: StudyConfig, trial: FrozenTrial, best: Sequence[FrozenTrial]) -> str:
    """Return a line about a trial that ended; `best` are the best of all, one per goal."""
    outcome = Outcome(trial.user_attrs["outcome"])
    seconds = trial.user_attrs.get("seconds")
    spent = "" if seconds is None else f" after {duration(seconds)}"
    said = trial.user_attrs["reason"]
    if outcome is Outcome.COMPLETE:
        said = _reached(config, trial)
        if any(trial.number == other.number for other in best):
            said += ", the best so far"
    return f"{_name(config, trial)}: {OUTCOME_WORDS[outcome]}{spent}: {said}"


def summary_line(config: StudyConfig, now: Standing) -> str:
    """Return a line about the whole."""
    used = ", ".join(f"{share.used:.3g} of {share.of:g} {share.name}" for share in now.budget)
    parts = [f"{used} ({_counted(now)})"]
    parts += [f"best: {_reached(config, t)} ({_name(config, t)})" for t in _distinct(now.best)]
    return "; ".join([*parts, _left(now)])


def picture(config: StudyConfig, now: Standing, elapsed: float) -> RenderableType:
    """Return the table.

    Args:
        config: the study's settings.
        now: where the sweep stands.
        elapsed: seconds that this call of the program has run.
    """
    head = Text(f"Search {config.name}:", style="bold")
    head.append(f" running for {duration(elapsed)}, {_left(now)}", style="not bold")
    parts: list[RenderableType] = [head, Text(HINT, style="dim"), "", _numbers(now), ""]
    parts.append(_best(config, now))
    if now.running:
        parts += ["", _running(config, now)]
    if now.ended:  # last: it is what a low terminal cuts off
        parts += ["", _ended(config, now)]
    return Group(*parts)


def _best(config: StudyConfig, now: Standing) -> Table:
    """Return the best trial of each goal, and its settings."""
    grid = _grid()
    if not now.best:
        grid.add_row("Best so far", "no trial has finished yet")
    for at, trial in enumerate(now.best):
        first, *others = _each(config, trial, first=at)
        words = Text(first, style="bold green")
        with_it = f" with {', '.join(others)}" if others else ""
        words.append(f"{with_it}  {_name(config, trial)}", style="not bold default")
        grid.add_row("Best so far", words)
        pairs = [f"{name}={value}" for name, value in settings(trial).items()]
        grid.add_row("", Text("  ".join(pairs), style="dim"))
    return grid


def _running(config: StudyConfig, now: Standing) -> Table:
    """Return the trials at work: how far, how good, how long."""
    table = _table("Running", "Trained", "Accuracy", "Time")
    for trial in now.running[:MOST_RUNNING]:
        frozen = next((t for t in now.trials if t.number == trial.number), None)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=100, completed=trial.percent, width=BAR), f"{trial.percent:>3} %"
        )
        name = f"trial {trial.number}" if frozen is None else _name(config, frozen)
        value = "" if trial.value is None else value_words(SCORE, trial.value)
        table.add_row(name, bar, value, duration(now.now - trial.since))
    more = len(now.running) - MOST_RUNNING
    if more > 0:
        table.add_row(f"and {more} more", "", "", "")
    return table


def _ended(config: StudyConfig, now: Standing) -> Table:
    """Return the latest trials that ended, and how."""
    table = _table("Ended last", "How", "")
    for trial in reversed(now.ended[-MOST_ENDED:]):
        outcome = Outcome(trial.user_attrs["outcome"])
        complete = outcome is Outcome.COMPLETE
        said = _reached(config, trial) if complete else trial.user_attrs["reason"]
        words = Text(OUTCOME_WORDS[outcome], style=STYLES[outcome])
        table.add_row(_name(config, trial), words, Text(said, no_wrap=True, overflow="ellipsis"))
    return table


def _numbers(now: Standing) -> Table:
    """Return how many trials of each sort, the work saved, and the budget."""
    grid = _grid()
    grid.add_row("Trials", _counted(now))
    if now.ran or now.reused:
        grid.add_row("Stages", f"{now.ran} run, {now.reused} found done and not repeated")
    budget = Table.grid(padding=(0, 1))
    for share in now.budget:
        bar = ProgressBar(total=share.of, completed=min(share.used, share.of), width=BAR)
        budget.add_row(bar, f"{share.used:.3g} of {share.of:g} {share.name}")
    grid.add_row("Used up", budget)
    return grid


def _counted(now: Standing) -> str:
    """Return "12 finished, 3 stopped early, 2 running"."""
    words = {**OUTCOME_WORDS, Outcome.INFEASIBLE: "with impossible settings"}
    parts = [f"{now.counts[o]} {ended}" for o, ended in words.items() if now.counts[o]]
    parts.append(f"{len(now.running)} running")
    if now.waiting:
        parts.append(f"{now.waiting} waiting for a free place")
    if now.known:
        parts.append(f"{now.known} known from earlier studies")
    return ", ".join(parts)


def _left(now: Standing) -> str:
    """Return how long it will take, in words."""
    if now.left is None:
        return "time left: known after the first trial"
    if now.left == 0 and not now.running:
        return "the budget is used up"
    if now.left < 60:
        return "less than a minute left"
    return f"about {duration(round(now.left / 60) * 60).removesuffix(' 0 s')} left"


def _reached(config: StudyConfig, trial: FrozenTrial) -> str:
    """Return the goals' values of a complete trial: "validation accuracy 91.20 %"."""
    return ", ".join(_each(config, trial))


def _each(config: StudyConfig, trial: FrozenTrial, first: int = 0) -> list[str]:
    """Return the value of each goal in words, that of goal `first` first."""
    pairs = zip(config.goals, trial.values, strict=True)
    words = [f"{METRIC_WORDS[g.metric]} {value_words(g.metric, v)}" for g, v in pairs]
    return [words[first], *words[:first], *words[first + 1 :]]


def _name(config: StudyConfig, trial: FrozenTrial) -> str:
    label = trial.user_attrs.get("recipe", "")
    return f"trial {trial.number}" + (f" ({label})" if len(config.recipes) > 1 and label else "")


def _distinct(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return list({trial.number: trial for trial in trials}.values())


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    return grid


def _table(*names: str) -> Table:
    """Return a table without lines; where it is too wide its last column is cut."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=name != names[-1])
    return table
