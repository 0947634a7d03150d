"""A file of computed features is believed only as long as it is what was written."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from data_shards.location import Location
from data_shards.manifest import ShardSet
from fsl.images import ImageSpec
from pipelines.features import Part, pixel_features
from tests.toy_training import IMAGES

SPEC = ImageSpec.model_validate(IMAGES)


def edited(content: bytes) -> bytes:
    """The same file with another number in it."""
    return content[:-4] + torch.tensor([3.5]).numpy().tobytes()


def written_by_others(content: bytes) -> bytes:
    return save({"features": load(content)["features"] + 1})


def cut_short(content: bytes) -> bytes:
    return content[:200]


def nothing(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [edited, written_by_others, cut_short, nothing])
def test_damaged_features_are_made_anew(
    damage: Callable[[bytes], bytes],
    tiny_shards: ShardSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    part, cache = Part.whole(tiny_shards.split("val")), Location.parse(tmp_path)
    expected = pixel_features(part, SPEC, cache, 16)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(pixel_features(part, SPEC, cache, 16), expected)
    assert f"{file.name}: damaged" in caplog.text
    assert torch.equal(load(file.read_bytes())["features"], expected)


def test_whole_features_are_read(
    tiny_shards: ShardSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part, cache = Part.whole(tiny_shards.split("val")), Location.parse(tmp_path)
    expected = pixel_features(part, SPEC, cache, 16)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    assert torch.equal(pixel_features(part, SPEC, cache, 16), expected)
    assert file.stat().st_mtime_ns == written
    assert not caplog.text
