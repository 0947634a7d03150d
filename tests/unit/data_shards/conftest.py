"""Fixtures of the tests that read shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_shards.manifest import ShardSet
from tests.unit.data_shards.hand_made_shards import (
    Samples,
    hand_made_samples,
    index_by_hand,
    write_tar,
)


@pytest.fixture
def samples() -> Samples:
    return hand_made_samples()


@pytest.fixture
def shard_set(tmp_path: Path, samples: Samples) -> ShardSet:
    for name, fields_of in samples.items():
        write_tar(tmp_path / "set" / name, fields_of)
    return index_by_hand(tmp_path / "set", samples)
