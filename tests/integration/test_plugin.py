"""A method in a package of its own: installed, listed, valid in recipes, held to the contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_method"

pytestmark = pytest.mark.slow  # four fresh processes, each importing torch

RECIPE = """\
run_dir: {runs}
stages:
  shards: {{kind: write_shards, source: {{name: strokes}}}}
  train:
    kind: train
    needs: [shards]
    images: {{size: 32}}
    backbone: {{name: conv4}}
    method: {{name: nca, temperature: 0.2}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages into which pip installed the example, without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")  # building writes into the source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    subprocess.run(
        [*pip, *offline, "--target", folder / "site", folder / "source"], check=True, timeout=240
    )
    return folder / "site"


def python(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (site, ROOT))))
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=site,
    )


def test_its_name_is_listed_and_its_settings_are_described(site: Path) -> None:
    listing = python(site, "-m", "pipelines.cli", "methods", "nca")
    assert listing.returncode == 0, listing.stderr
    assert "Images of a class attract each other" in listing.stdout
    assert "0.02 .. 1.0, log" in listing.stdout


def test_a_recipe_may_name_it_and_its_settings_are_checked(site: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "nca.yaml"
    recipe.write_text(RECIPE.format(runs=tmp_path / "runs"))
    check = ["-m", "pipelines.cli", "run", str(recipe), "--check"]
    good = python(site, *check)
    assert good.returncode == 0, good.stderr
    assert "train" in good.stdout
    bad = python(site, *check, "stages.train.method.temperatur=1")
    assert bad.returncode == 2
    assert "temperatur: unknown key; did you mean 'temperature'?" in bad.stderr


def test_it_fulfils_the_contract(site: Path) -> None:
    pytest_arguments = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    run = python(site, "-m", "pytest", *pytest_arguments, EXAMPLE / "tests")
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout
