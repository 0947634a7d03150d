"""One torch thread, fixed seeds, and the places of data that tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # for processes that tests start
    os.environ.setdefault(_name, "1")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


def _folder(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{path} is not here; set {variable} to its place")
    return path


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real data sets (`FEWSHOT_DATA`, default ../shared/data); skips where there are none."""
    return _folder("FEWSHOT_DATA", ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Reference archives (`FEWSHOT_GOLDEN`, default ../shared/golden); skips without them."""
    return _folder("FEWSHOT_GOLDEN", ROOT.parent / "shared" / "golden")
