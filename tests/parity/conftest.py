"""Reference vectors of the original implementations, found by the `kind` inside each archive.

`FEWSHOT_GOLDEN` names the folder of `*.npz` files; default `../shared/golden` beside the
checkout. A test module parametrises itself over one or more kinds:

    @pytest.mark.archive("smkd.stage1_loss")
    def test_...(archive: Archive) -> None: ...

Archives of kinds that no test names are simply never asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("FEWSHOT_GOLDEN", ROOT.parent / "shared" / "golden"))


class Archive:
    """One archive: `archive["key"]` is a float32/int64/bool tensor, `archive.array` the raw one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = np.load(path, allow_pickle=False)
        self.keys: list[str] = self._file.files

    @property
    def kind(self) -> str:
        return str(self._file["kind"]) if "kind" in self.keys else ""

    def array(self, key: str) -> np.ndarray:
        value: np.ndarray = self._file[key]
        return value

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self._file[key])

    def number(self, key: str) -> float:
        return float(self._file[key])

    def integer(self, key: str) -> int:
        return int(self._file[key])

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose keys begin with `prefix`, without it."""
        return {key[len(prefix) :]: self[key] for key in self.keys if key.startswith(prefix)}


def archives(kind_prefix: str) -> list[Path]:
    """Return the paths of all archives whose `kind` is `kind_prefix` or starts with it + '.'."""
    found = []
    for path in sorted(GOLDEN.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            kind = str(file["kind"]) if "kind" in file.files else ""
        if kind == kind_prefix or kind.startswith(kind_prefix + "."):
            found.append(path)
    return found


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "archive(*kinds): run once per reference archive of these kinds"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "archive" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("archive")
    kinds = marker.args if marker else ()
    paths = [path for kind in kinds for path in archives(kind)]
    if not paths:
        skip = pytest.mark.skip(reason=f"no archive of kind {kinds} in {GOLDEN}")
        metafunc.parametrize("archive", [pytest.param(None, marks=skip)], indirect=True)
        return
    metafunc.parametrize("archive", paths, ids=[path.stem for path in paths], indirect=True)


@pytest.fixture
def archive(request: pytest.FixtureRequest) -> Iterator[Archive]:
    opened = Archive(request.param)
    yield opened
    opened._file.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("parity")
