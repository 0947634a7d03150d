"""Ray Tune's side of a study: a searcher that hands trials out, a scheduler that prunes them.

Both are thin: what they know is in the study (`tuning.ledger`), so they have no state to save, and
nothing of Ray Tune's own snapshots is ever restored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from fsl.errors import FewShotError
from tuning.ledger import Ledger
from tuning.outcome import TrialNews

NEWS = "news"
"""Key of a `TrialNews`, as JSON, in a result of Ray Tune."""
SPARE = 3


class StudySearcher(Searcher):
    """Hands out the trials of a study, and closes them when Tune says they ended."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger: Ledger | None = ledger
        self.numbers: dict[str, int] = {}
        """Number in the study of each trial of Tune."""
        self.pruned: set[str] = set()
        self.deaths: dict[str, str] = {}
        """Why the process of a trial died the last time."""
        self.restartable: set[str] = set()
        """Trials whose process died, and may be started again."""
        self.spare: dict[int, int] = defaultdict(lambda: SPARE)
        """How often each trial may be handed out again besides Tune's own restarts."""
        self.fault: FewShotError | None = None
        """What ends the sweep; Tune would take it for a fault of one trial."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the study out of Tune's snapshots."""
        return {**self.__dict__, "ledger": None, "spare": {}}

    @property
    def book(self) -> Ledger:
        """The study; there while the sweep runs."""
        assert self.ledger is not None
        return self.ledger

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's configuration, or that there is none."""
        try:
            job = self.book.next()
        except FewShotError as error:
            self.fault, job = error, None
        if job is None:
            return Searcher.FINISHED
        self.numbers[trial_id] = job.number
        params = self.book.study.get_trials(deepcopy=False)[job.number].params
        return {"number": job.number, "params": params, "job": job.to_json()}

    def record(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Write a result into the study; return whether the trial is to be pruned."""
        prune = self.book.record(self.numbers[trial_id], TrialNews.from_json(result[NEWS]))
        if prune:
            self.pruned.add(trial_id)
        return prune

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler, which is asked first, has passed the result on."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Close a trial in the study."""
        number = self.numbers[trial_id]
        if error and trial_id in self.restartable and self.spare[number]:
            self.spare[number] -= 1
            self.book.again(number)  # Tune counts one death twice if two calls were under way
        elif error or not result or NEWS not in result:
            self.book.lost(number, self.deaths.get(trial_id, "its process died"))
        elif trial_id in self.pruned:
            self.book.prune(number)
        else:
            self.book.finish(number, TrialNews.from_json(result[NEWS]))
        try:
            self.book.refuse_hopeless()
        except FewShotError as hopeless:
            self.fault = hopeless

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is saved at every change."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a sweep that goes on begins with the study."""


class StudyScheduler(FIFOScheduler):
    """Trials in the order they come; each result may end one, as the study's pruner says."""

    def __init__(self, searcher: StudySearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return whether the trial goes on."""
        stop = self.searcher.record(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Note why a trial's process died; Tune restarts it or closes it next."""
        lines = str(trial.get_error() or "").strip().splitlines()
        self.searcher.deaths[trial.trial_id] = lines[-1] if lines else "its process died"
        self.searcher.restartable.discard(trial.trial_id)
        if trial.should_recover():  # type: ignore[no-untyped-call]
            self.searcher.restartable.add(trial.trial_id)
            self.searcher.book.restarted(self.searcher.numbers[trial.trial_id])
