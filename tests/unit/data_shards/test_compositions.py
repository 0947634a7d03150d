"""Compositions: which pairs are seen, and that every part of an unseen pair is."""

from collections import Counter

import pytest

from data_shards.compositions import CompositionsConfig
from data_shards.location import Location
from data_shards.sources import build_source
from data_shards.styles import STYLES
from data_shards.writer import write_shards


def test_parts_of_unseen_pairs_are_seen_in_other_pairs() -> None:
    samples = build_source(CompositionsConfig(characters=7)).samples()
    pairs = {
        split: {(s.extra["attribute"], s.extra["object"]) for s in samples if s.split == split}
        for split in ("base", "held_out", "val", "novel")
    }
    assert pairs["base"] == pairs["held_out"]
    assert not pairs["base"] & (pairs["val"] | pairs["novel"])
    assert not pairs["val"] & pairs["novel"]
    assert {attribute for attribute, _ in pairs["base"]} == set(STYLES)
    assert len({thing for _, thing in pairs["base"]}) == 7
    assert len(pairs["base"]) == 21
    assert len(pairs["novel"]) == len(pairs["val"]) == 7
    assert all(s.class_name == f"{s.extra['attribute']} {s.extra['object']}" for s in samples)


def test_images_are_as_many_as_said_and_all_differ(tmp_path: object) -> None:
    config = CompositionsConfig(characters=5, images=3, held_out_images=2, size=16)
    source = build_source(config)
    counts = Counter((s.split, s.class_name) for s in source.samples())
    assert {count for (split, _), count in counts.items() if split == "base"} == {3}
    assert {count for (split, _), count in counts.items() if split != "base"} == {2}
    assert len({source.read(s) for s in source.samples()}) == len(source.samples())
    again = build_source(config.model_copy(update={"images": 5}))
    first = next(s for s in source.samples() if s.split == "novel")
    assert again.read(first) == source.read(first)
    shards = write_shards(config, Location.parse(str(tmp_path)))
    assert shards.extra_names == ["attribute", "object", "origin"]


def test_few_characters_are_refused() -> None:
    with pytest.raises(ValueError, match="characters"):
        CompositionsConfig(characters=4)
