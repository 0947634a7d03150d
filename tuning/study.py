"""A whole study: trials, then the best once more on fresh episodes, then what people read."""

from __future__ import annotations

from tuning.best import write_best
from tuning.config import StudyConfig
from tuning.finalists import run_finalists
from tuning.report.page import write_report
from tuning.space import Space
from tuning.store import open_study
from tuning.sweep import run_trials
from tuning.table import leaderboard, write_table


def run_study(config: StudyConfig, space: Space, width: int = 100) -> str:
    """Run what is not done yet, write all files, return what to print.

    Raises:
        FewShotError: the study cannot run, or its trials all fail alike.
        KeyboardInterrupt: stopped by hand; the same call goes on.
    """
    with open_study(config, space) as store:
        try:
            run_trials(config, space, store)
        finally:
            write_table(config.root, store.study)
        comparison = run_finalists(space, config, store.study)
        best = write_best(space, config, store.study)
        table = leaderboard(config, store.study, width)
    page = write_report(config.root)
    words = [table, comparison, f"best recipe: {best}", f"report: {page}"]
    return "\n".join(str(part) for part in words if part)
