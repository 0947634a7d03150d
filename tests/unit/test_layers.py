"""Who may import whom: fsl <- data_shards <- pipelines <- tuning, and what a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ["fsl", "data_shards", "pipelines", "tuning"]
DATA_SHARDS_MAY_USE = {
    "types",
    "config",
    "errors",
    "registry",
    "images",
    "batchers",
    "search_space",
    "long_tail",
}
FORBIDDEN = {
    "fsl": {"ray", "webdataset", "pyarrow", "optuna"},
    "data_shards": {"ray", "optuna", "timm"},
    "pipelines": {"optuna"},
    "tuning": set(),
}
EMPTY_NAMES = {"utils", "helpers", "common", "misc"}
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def wrong_arrows(layer: str, source: str) -> Iterator[str]:
    """Yield the imports that `layer` must not have."""
    for name in imported(ast.parse(source)):
        top, _, rest = name.partition(".")
        if top in LAYERS and LAYERS.index(top) > LAYERS.index(layer):
            yield f"{layer} must not import the higher layer: {name}"
        if top in FORBIDDEN[layer]:
            yield f"{layer} must not know {top}"
        part = rest.partition(".")[0]
        if layer == "data_shards" and top == "fsl" and part and part not in DATA_SHARDS_MAY_USE:
            yield f"data_shards may use only the plain parts of fsl, not {name}"


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that import statements name, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_are_files_to_look_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"fsl", "data_shards"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_points_down(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    assert list(wrong_arrows(layer, path.read_text())) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_one_idea_and_a_name(path: Path) -> None:
    assert path.stem not in EMPTY_NAMES
    assert path.parent.name not in EMPTY_NAMES
    assert len(path.read_text().splitlines()) <= 300, "split it"


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("fsl", "from data_shards.location import Location"),
        ("fsl", "def f():\n    import ray.train"),
        ("fsl", "import pyarrow as pa"),
        ("data_shards", "from pipelines import stage"),
        ("data_shards", "import ray"),
        ("data_shards", "from fsl.methods.smkd import SMKD"),
        ("pipelines", "import tuning.space"),
        ("pipelines", "from optuna import Study"),
    ],
)
def test_a_wrong_arrow_is_found(layer: str, source: str) -> None:
    assert list(wrong_arrows(layer, source))
