"""The archives that come with the project are where the tests look for them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("FEWSHOT_GOLDEN", ROOT.parent / "shared" / "golden"))


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no folder {GOLDEN}")
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("smkd_*.npz")), ids=lambda path: path.stem)
def test_every_archive_names_its_kind(path: Path) -> None:
    with np.load(path, allow_pickle=False) as file:
        assert str(file["kind"]).startswith("smkd.")
