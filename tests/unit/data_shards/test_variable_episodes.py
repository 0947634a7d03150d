"""Variable ways and shots: the rules of Meta-Dataset hold for every task, on any split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from data_shards.class_rows import ClassRows
from data_shards.class_tree import TREE_NAME
from data_shards.episode_designs import EpisodeRows
from data_shards.episode_sampler import EpisodeSampler
from data_shards.location import Location
from data_shards.manifest import Split
from data_shards.variable_episodes import (
    VariableEpisodes,
    queries_per_class,
    shots_per_class,
    support_size,
    ways_range,
)
from fsl.config import build
from fsl.errors import ConfigError
from fsl.search_space import search_space


class VirtualSplit:
    """Labels without images."""

    def __init__(self, counts: Sequence[int], root: Path = Path("nowhere")) -> None:
        self.name = "base"
        place = Location.parse(root)
        self.shard_set = cast(Any, type("Set", (), {"digest": "d" * 64, "root": place}))
        self.class_names = [f"class {i}" for i in range(len(counts))]
        labels = np.repeat(np.arange(len(counts)), counts)
        self.labels = np.random.default_rng(0).permutation(labels).astype(np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def class_rows(self) -> ClassRows:
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return ClassRows(np.argsort(self.labels, kind="stable").astype(np.int64), starts)


def virtual(counts: Sequence[int], root: Path = Path("nowhere")) -> Split:
    return cast(Split, VirtualSplit(counts, root))


UNEQUAL = np.random.default_rng(5).integers(20, 300, 70).tolist()


def tasks(
    split: Split, count: int, design: VariableEpisodes | None = None, seed: int = 0
) -> list[EpisodeRows]:
    design = design or VariableEpisodes()
    return [design.rows(split, np.array([number]), seed) for number in range(count)]


def classes_of(split: Split, task: EpisodeRows) -> np.ndarray:
    """Classes of a task by its labels, from its queries."""
    found = np.full(task.ways, -1)
    found[task.query_labels[0]] = split.labels[task.query[0]]
    return found


def test_support_and_queries_are_different_images_of_the_tasks_classes() -> None:
    split = virtual(UNEQUAL)
    for task in tasks(split, 60):
        rows = np.concatenate([task.support[0], task.query[0]])
        assert len(set(rows.tolist())) == len(rows)
        classes = classes_of(split, task)
        assert len(set(classes.tolist())) == task.ways
        assert (split.labels[task.support[0]] == classes[task.support_labels[0]]).all()
        assert (split.labels[task.query[0]] == classes[task.query_labels[0]]).all()
        assert set(task.support_labels[0].tolist()) == set(range(task.ways))


def test_every_task_keeps_the_limits() -> None:
    split = virtual(UNEQUAL)
    sizes = np.array(UNEQUAL)
    ways, balanced = set(), []
    for task in tasks(split, 200):
        drawn = sizes[classes_of(split, task)]
        queries = np.bincount(task.query_labels[0])
        shots = np.bincount(task.support_labels[0])
        assert (queries == min(10, drawn.min() // 2)).all()
        assert (shots + queries <= drawn).all()
        assert task.support.shape[1] <= 500
        ways.add(task.ways)
        balanced.append(shots.min() == shots.max())
    assert min(ways) >= 5
    assert max(ways) <= 50
    assert len(ways) > 35
    assert not all(balanced)


def test_a_task_is_a_function_of_seed_and_number() -> None:
    split = virtual(UNEQUAL)
    first, again, other = (tasks(split, 12, seed=seed) for seed in (1, 1, 2))
    for one, two, three in zip(first, again, other, strict=True):
        assert one.ways == two.ways
        assert np.array_equal(one.support, two.support)
        assert np.array_equal(one.query, two.query)
        assert np.array_equal(one.support_labels, two.support_labels)
        assert not np.array_equal(one.support, three.support)
    alone = VariableEpisodes().rows(split, np.array([11]), 1)
    assert np.array_equal(alone.support, first[11].support)
    assert len({task.support.tobytes() for task in first}) == 12


def test_ways_and_classes_are_drawn_evenly() -> None:
    split = virtual([4] * 12)
    drawn = tasks(split, 1600)
    ways = np.bincount([task.ways for task in drawn], minlength=13)[5:]
    assert ((ways - 200) ** 2 / 200).sum() < 25  # 5..12: 7 degrees of freedom
    classes = np.bincount(np.concatenate([classes_of(split, task) for task in drawn]))
    expected = classes.sum() / 12
    assert ((classes - expected) ** 2 / expected).sum() < 30


def test_support_sizes_spread_between_one_each_and_the_limit() -> None:
    split = virtual([200] * 8)
    design = VariableEpisodes(min_ways=8, max_ways=8, max_support=800, imbalance=1.0)
    shots = np.array([task.support.shape[1] / 8 for task in tasks(split, 400, design)])
    assert shots.min() < 3
    assert shots.max() > 96
    assert abs(shots.mean() - 50) < 6  # beta is uniform: 1 to 100 images per class


def test_without_imbalance_equal_classes_get_equal_shots() -> None:
    split = virtual([60] * 9)
    for task in tasks(split, 40, VariableEpisodes(imbalance=1.0)):
        assert len(set(np.bincount(task.support_labels[0]).tolist())) == 1


def test_classes_of_one_image_take_no_part() -> None:
    split = virtual([1, 5, 5, 1, 5, 5, 5, 2])
    for task in tasks(split, 50):
        assert not {0, 3} & set(classes_of(split, task).tolist())
    with pytest.raises(ConfigError, match="min_ways: 7, but of its 8 classes 6 have 2 images"):
        VariableEpisodes(min_ways=7).check(split)
    VariableEpisodes(min_ways=6).check(split)


def test_the_rules_on_small_numbers() -> None:
    assert ways_range(9, 5, 50) == (5, 9)
    assert ways_range(900, 5, 50) == (5, 50)
    sizes = np.array([7, 30, 200])
    assert queries_per_class(sizes, 10) == 3
    assert queries_per_class(sizes, 2) == 2
    assert support_size(sizes, 3, 0.0, 100, 500) == 3
    assert support_size(sizes, 3, 0.5, 100, 500) == 3 + 14 + 51
    assert support_size(sizes, 3, 0.5, 100, 40) == 40
    assert shots_per_class(sizes, 3, 40, np.zeros(3)).tolist() == [2, 5, 32]  # 37 by size, and 1
    assert shots_per_class(sizes, 3, 40, np.log([2, 1, 1])).tolist() == [3, 5, 31]
    assert shots_per_class(sizes, 3, 240, np.zeros(3)).tolist() == [4, 27, 197]
    assert shots_per_class(sizes, 3, 3, np.zeros(3)).tolist() == [1, 1, 1]


def test_tasks_of_two_pools_are_not_mixed() -> None:
    pools = [virtual(UNEQUAL), virtual([30] * 20)]
    sampler = EpisodeSampler(pools, VariableEpisodes(), seed=3)
    found = set()
    for number in range(40):
        task = sampler.rows(np.array([number]))
        rows = np.concatenate([task.support[0], task.query[0]])
        of_second = rows >= len(pools[0])
        assert of_second.all() or not of_second.any()
        found.add(bool(of_second[0]))
    assert found == {True, False}


def test_several_tasks_cannot_be_stacked() -> None:
    assert VariableEpisodes.varies
    with pytest.raises(ValueError, match="2 tasks of different shapes"):
        VariableEpisodes().rows(virtual(UNEQUAL), np.array([0, 1]), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_ways": 60}, "min_ways 60 exceeds max_ways 50"),
        ({"max_support": 40}, "max_ways 50 exceeds max_support 40"),
        ({"class_tree": True, "max_span": 4}, "max_span 4 is below min_ways 5"),
        ({"max_span": 60}, "max_span: 60 does nothing without a class tree; set class_tree: true"),
        ({"ignore_hierarchy_probability": 0}, "ignore_hierarchy_probability: 0 does nothing"),
        ({"imbalance": 0.5}, "imbalance: Input should be greater than or equal to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(VariableEpisodes, settings)


def test_settings_of_the_tree_limit_nothing_without_one() -> None:
    design = build(VariableEpisodes, {"min_ways": 400, "max_ways": 400})
    assert not set(search_space(design)) & {"ignore_hierarchy_probability", "max_span"}


NODES = {"small": range(4), "left": range(10), "right": range(10, 70), "all": range(70)}


def save_tree(root: Path, nodes: dict[str, Any]) -> None:
    listed = [
        {"name": name, "classes": [f"class {c}" for c in below] + ["class of another split"]}
        for name, below in nodes.items()
    ]
    (root / TREE_NAME).write_text(json.dumps({"nodes": listed}))


def test_classes_of_a_task_lie_below_one_node(tmp_path: Path) -> None:
    save_tree(tmp_path, NODES)
    split = virtual(UNEQUAL, tmp_path)
    design = VariableEpisodes(class_tree=True, ignore_hierarchy_probability=0, max_span=60)
    design.check(split)
    left = 0
    for task in tasks(split, 60, design):
        classes = set(classes_of(split, task).tolist())
        if task.ways == 10:  # all classes below the node
            assert classes == set(NODES["left"])
            left += 1
        else:
            assert task.ways == 50
            assert classes < set(NODES["right"])
    assert 15 < left < 45


def test_part_of_the_tasks_ignores_the_tree(tmp_path: Path) -> None:
    save_tree(tmp_path, {"left": NODES["left"]})
    split = virtual(UNEQUAL, tmp_path)
    design = VariableEpisodes(class_tree=True, ignore_hierarchy_probability=0.7)
    plain, drawn = tasks(split, 200), tasks(split, 200, design)
    below = [set(classes_of(split, task).tolist()) <= set(NODES["left"]) for task in drawn]
    assert 35 < sum(below) < 90
    for inside, task, other in zip(below, drawn, plain, strict=True):
        assert inside or np.array_equal(task.support, other.support)


def test_trees_that_do_not_serve_are_named(tmp_path: Path) -> None:
    design = VariableEpisodes(class_tree=True)
    for name, content, message in (
        ("none", None, r"class_tree.json: missing, and the tasks are to follow"),
        ("text", "no json", r"class_tree.json: not a class tree \(JSONDecodeError"),
        ("list", "[]", r"class_tree.json: not a class tree \(TypeError"),
        ("small", {"small": NODES["small"]}, "no node has 5 to 392 classes of the split below"),
    ):
        root = tmp_path / name
        root.mkdir()
        if isinstance(content, dict):
            save_tree(root, content)
        elif content is not None:
            (root / TREE_NAME).write_text(content)
        with pytest.raises(ConfigError, match=message):
            design.check(virtual(UNEQUAL, root))
