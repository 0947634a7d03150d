"""Keys and passwords in a recipe's addresses are in no file of a study."""

from __future__ import annotations

import copy
from pathlib import Path

import optuna
import yaml

from tests.toy_study import RECIPE, write_study
from tuning.best import write_best
from tuning.config import StudyConfig, load_study
from tuning.report.page import write_report
from tuning.space import build_space
from tuning.store import open_study

PLAIN = "s3://bucket/characters"
SECRET = "AKIAKEY:abc%2Fdef"


def study(folder: Path, address: str) -> StudyConfig:
    """Return a study whose recipe reads images from an address."""
    path = write_study(folder)
    recipe = copy.deepcopy(RECIPE)
    recipe["stages"]["shards"]["source"] = {"name": "folder", "root": address}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return load_study(path)


def run_trial(config: StudyConfig) -> optuna.Study:
    space = build_space(config)
    with open_study(config, space) as store:
        trial = store.study.ask()
        store.study.tell(trial, space.suggest(trial)["optim.lr"])
        write_best(space, config, store.study)
        return store.study


def test_no_file_of_a_study_has_credentials(tmp_path: Path) -> None:
    config = study(tmp_path, f"s3://{SECRET}@bucket/characters")
    run_trial(config)
    write_report(config.root)
    texts = {p.name: p.read_text() for p in (tmp_path / "study").rglob("*") if p.is_file()}
    assert {"study.yaml", "best.yaml", "report.html"} <= texts.keys()
    assert [name for name, text in texts.items() if "abc%2F" in text or "AKIA" in text] == []
    assert PLAIN in texts["study.yaml"]
    assert PLAIN in texts["best.yaml"]


def test_a_study_goes_on_with_and_without_its_credentials(tmp_path: Path) -> None:
    for address in (f"s3://{SECRET}@bucket/characters", PLAIN, "s3://OTHER:KEY@bucket/characters"):
        found = run_trial(study(tmp_path, address))
    assert len(found.trials) == 3
