"""Parts of a split: which rows they have, and that they behave as splits."""

import pickle
from typing import Any

import numpy as np
import pytest

from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.order import ShuffledOrder
from data_shards.reader import Reader
from data_shards.selection import SelectionConfig, rows_where, set_aside_part, training_part
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.errors import ConfigError


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    config = StrokesConfig(
        size=8, images=40, held_out_images=3, characters=4,
        base_alphabets=3, val_alphabets=0, novel_alphabets=1,
    )  # fmt: skip
    place = Location.parse(tmp_path_factory.mktemp("selection") / "shards")
    return write_shards(config, place, max_samples=100)


def chosen(**settings: Any) -> SelectionConfig:
    return SelectionConfig.model_validate(settings)


def keys(split: Any) -> set[str]:
    return {split.key(row) for row in range(len(split))}


def test_held_out_images_are_others_of_the_same_classes(shards: ShardSet) -> None:
    base, held_out = shards.split("base"), shards.split("held_out")
    assert held_out.class_names == base.class_names
    assert np.bincount(held_out.labels).tolist() == [3] * 12
    seen = set(base.extra("origin"))
    assert not seen & set(held_out.extra("origin"))
    contents = [set(map(bytes, Reader(s).read(np.arange(len(s))))) for s in (base, held_out)]
    assert not contents[0] & contents[1]


def test_a_part_is_a_split_of_the_chosen_rows(shards: ShardSet) -> None:
    base = shards.split("base")
    part = rows_where(base, {"alphabet": ["base00", "base02"]})
    rows = [row for row, name in enumerate(base.extra("alphabet")) if name != "base01"]
    assert len(part) == len(rows) == 320
    assert [part.key(i) for i in range(len(part))] == [base.key(row) for row in rows]
    assert part.keys.to_pylist() == [base.key(row) for row in rows]
    assert (part.labels == base.labels[rows]).all()
    assert part.extra("alphabet") == [base.extra("alphabet")[row] for row in rows]
    assert (part.image_sizes == 8).all()
    assert part.extensions == ["png"] * 320
    some = np.array([0, 7, 319])
    assert list(map(bytes, Reader(part).read(some))) == list(
        map(bytes, Reader(base).read(np.array(rows)[some]))
    )
    assert part.class_rows().counts.tolist() == [40] * 4 + [0] * 4 + [40] * 4


def test_a_part_travels_to_other_processes(shards: ShardSet) -> None:
    part = rows_where(shards.split("base"), {"alphabet": ["base01"]})
    again = pickle.loads(pickle.dumps(part))
    assert keys(again) == keys(part)
    assert (again.shard_sizes == part.shard_sizes).all()


def test_an_epoch_over_a_part_has_each_row_once(shards: ShardSet) -> None:
    part = rows_where(shards.split("base"), {"alphabet": ["base01"]})
    order = ShuffledOrder(part.shard_sizes, 3, 1)
    assert sorted(order.rows(0, np.arange(len(order)))) == list(range(160))


def test_images_set_aside_and_trained_on_make_the_whole(shards: ShardSet) -> None:
    base, config = shards.split("base"), chosen(set_aside=0.25)
    kept, aside = training_part(base, config), set_aside_part(base, config)
    assert keys(kept) | keys(aside) == keys(base)
    assert not keys(kept) & keys(aside)
    assert np.bincount(aside.labels).tolist() == [10] * 12
    other = set_aside_part(base, chosen(set_aside=0.25, set_aside_seed=1))
    assert keys(other) != keys(aside)


def test_a_long_tail_falls_geometrically_and_nests(shards: ShardSet) -> None:
    base = shards.split("base")
    tail = training_part(base, chosen(long_tail={"ratio": 20}))
    counts = np.bincount(tail.labels)
    assert counts[0] == 40
    assert counts[-1] == 2
    assert (np.diff(counts) <= 0).all()
    steeper = training_part(base, chosen(long_tail={"ratio": 40}))
    assert keys(steeper) < keys(tail)
    step = training_part(base, chosen(long_tail={"kind": "step", "ratio": 10}))
    assert np.bincount(step.labels).tolist() == [40] * 6 + [4] * 6


def test_the_tail_comes_after_setting_aside(shards: ShardSet) -> None:
    config = chosen(set_aside=0.25, long_tail={"ratio": 10})
    base = shards.split("base")
    tail = training_part(base, config)
    assert np.bincount(tail.labels)[0] == 30
    assert not keys(tail) & keys(set_aside_part(base, config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": {"alphabet": ["base1"]}}, "did you mean 'base01'"),
        ({"where": {"domain": ["photo"]}}, "no column 'domain'"),
        ({"long_tail": {"largest": 41, "ratio": 10}}, "class 0 has 40 images"),
    ],
)
def test_what_cannot_be_chosen_is_explained(
    shards: ShardSet, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        training_part(shards.split("base"), chosen(**settings))
    assert isinstance(caught.value, ConfigError) or "column" in message


def test_nothing_set_aside_is_an_error(shards: ShardSet) -> None:
    with pytest.raises(ConfigError, match="sets no image aside"):
        set_aside_part(shards.split("base"), chosen())


def test_a_published_tail_needs_the_published_order(shards: ShardSet) -> None:
    with pytest.raises(ConfigError, match="does not give all training images of a pickled CIFAR"):
        training_part(shards.split("base"), chosen(long_tail={"ratio": 10, "published": True}))
