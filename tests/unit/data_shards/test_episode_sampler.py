"""Training tasks: functions of (seed, number), whatever else is drawn."""

from pathlib import Path

import numpy as np
import pytest

from data_shards.episode_designs import FixedEpisodes
from data_shards.episode_sampler import EpisodeSampler
from data_shards.location import Location
from data_shards.manifest import ShardSet
from data_shards.synthetic import StrokesConfig
from data_shards.writer import write_shards
from fsl.config import build
from fsl.errors import ConfigError

DESIGN = FixedEpisodes(ways=4, shots=2, queries=3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    root: Path = tmp_path_factory.mktemp("sampler") / "shards"
    config = StrokesConfig(
        size=8, images=8, characters=6, base_alphabets=2, val_alphabets=1, novel_alphabets=0
    )
    return write_shards(config, Location.parse(root), progress=False)


def test_a_task_is_a_function_of_seed_and_number(shards: ShardSet) -> None:
    sampler = EpisodeSampler([shards.split("base")], DESIGN, seed=3)
    together = sampler.rows(np.arange(50, 60))
    for place, number in enumerate(range(50, 60)):
        alone = sampler.rows(np.array([number]))
        assert np.array_equal(alone.support[0], together.support[place])
        assert np.array_equal(alone.query[0], together.query[place])
    other = EpisodeSampler([shards.split("base")], DESIGN, seed=4).rows(np.arange(50, 60))
    assert not np.array_equal(other.support, together.support)


def test_support_and_queries_are_different_images_of_the_classes_they_are_labelled(
    shards: ShardSet,
) -> None:
    sampler = EpisodeSampler([shards.split("base")], DESIGN, seed=3)
    tasks = sampler.rows(np.arange(200))
    assert tasks.support.shape == (200, 8)
    assert tasks.query.shape == (200, 12)
    for t in range(200):
        rows = [*tasks.support[t], *tasks.query[t]]
        assert len(set(rows)) == 20
        labels = [*tasks.support_labels[t], *tasks.query_labels[t]]
        assert len(set(zip(labels, sampler.labels[rows], strict=True))) == 4
    counts = np.bincount(sampler.labels[tasks.support.ravel()], minlength=12)
    assert counts.min() > 0.6 * counts.mean()  # every class takes part


def test_a_task_never_mixes_pools_and_pools_count_by_their_classes(shards: ShardSet) -> None:
    base, val = shards.split("base"), shards.split("val")
    sampler = EpisodeSampler([base, val], DESIGN, seed=0)
    tasks = sampler.rows(np.arange(600))
    from_val = tasks.support >= len(base)
    assert np.array_equal(from_val.any(1), from_val.all(1))
    assert np.array_equal(from_val.any(1), (tasks.query >= len(base)).all(1))
    assert 0.26 < from_val.any(1).mean() < 0.41  # 6 of 18 classes
    assert sampler.labels.max() == 17
    alone = sampler.rows(np.array([17]))
    assert np.array_equal(alone.query[0], tasks.query[17])


def test_image_seeds_depend_on_task_and_place_only(shards: ShardSet) -> None:
    sampler = EpisodeSampler([shards.split("base")], DESIGN, seed=0)
    seeds = sampler.seeds(np.arange(10), 20)
    assert len(np.unique(seeds)) == 200
    assert seeds.max() < 2**63
    assert np.array_equal(seeds[7, :5], sampler.seeds(np.array([7]), 5)[0])


def test_impossible_tasks_are_refused(shards: ShardSet) -> None:
    with pytest.raises(ConfigError, match="ways: 13"):
        EpisodeSampler([shards.split("base")], DESIGN.model_copy(update={"ways": 13}), 0)
    with pytest.raises(ConfigError, match="0 have the 9 images"):
        EpisodeSampler([shards.split("base")], DESIGN.model_copy(update={"shots": 6}), 0)
    with pytest.raises(ConfigError, match="per_step 9 exceeds per_epoch 3"):
        build(FixedEpisodes, {"per_step": 9, "per_epoch": 3})
