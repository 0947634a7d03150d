"""A whole study: trials, then the best once more on fresh tasks, then what people read."""

from __future__ import annotations

from tuning.best import write_best
from tuning.config import StudyConfig
from tuning.finalists import check_finalists, run_finalists
from tuning.pbt import best_member, run_population
from tuning.report.page import write_report
from tuning.same_data import check_data
from tuning.space import Space
from tuning.store import StudyStore, open_study
from tuning.sweep import run_trials
from tuning.table import leaderboard, write_table


def run_study(config: StudyConfig, space: Space, width: int = 100) -> str:
    """Run what is not done yet, write all files, return what to print.

    Raises:
        FewShotError: the study cannot run, or its trials all fail alike.
        KeyboardInterrupt: stopped by hand; the same call goes on.
    """
    data = space.check_plans()
    check_finalists(space, config)
    search = run_trials if config.population is None else run_population
    with open_study(config, space) as store:
        check_data(store, data)
        try:
            search(config, space, store)
        finally:
            write_table(config.root, store.study)
        results = [leaderboard(config, store.study, width), *_results(config, space, store, width)]
    return "\n".join([*results, f"report: {write_report(config.root)}"])


def _results(config: StudyConfig, space: Space, store: StudyStore, width: int) -> list[str]:
    """Return the comparison of the best, and where the best is."""
    if config.population is not None:  # its members followed schedules, and no recipe
        return [f"best model: {best_member(config.root, store.study)}"]
    best = write_best(space, config, store.study)  # first: it stands if an evaluation fails
    finalists = run_finalists(space, config, store.study)
    told = [] if finalists is None else ["", finalists.text(width), ""]
    return told if best is None else [*told, f"best recipe: {best}"]
