"""What a train stage feeds its method: batch plan, data set and image store of the settings."""

from __future__ import annotations

from typing import Any, TypeAlias

from data_shards.episode_sampler import EpisodeSampler
from data_shards.features import FeatureSet, FeatureSplit
from data_shards.location import Location
from data_shards.manifest import ShardSet, Split
from data_shards.order import ClassBalancedOrder, Order, ShuffledOrder
from data_shards.selection import set_aside_part, training_part
from fsl.errors import ConfigError
from fsl.method import METHODS
from pipelines.batch_plan import BatchPlan
from pipelines.image_store import ImageStore, PooledStore, open_store
from pipelines.loader import EpisodeSteps, ImageSteps, StepDataset
from pipelines.train_config import OrderConfig, TrainConfig

Data: TypeAlias = ShardSet | FeatureSet


def open_data(root: Location, features: bool) -> Data:
    """Return the feature set or the shard set in a directory."""
    return FeatureSet.open(root) if features else ShardSet.open(root)


def training_pools(config: TrainConfig, data: Data) -> list[Split | FeatureSplit]:
    """Return the splits trained on, or the selected parts of them."""
    pools = [data.split(name) for name in config.splits]
    if config.data.select is None:
        return pools
    return [training_part(images_of(pool), config.data.select) for pool in pools]


def set_aside_images(config: TrainConfig, data: Data) -> Split:
    """Return the images of the training split that `validation.kind: classes` asks for."""
    assert config.data.select is not None
    return set_aside_part(images_of(data.split(config.splits[0])), config.data.select)


def images_of(split: Split | FeatureSplit) -> Split:
    """Return a split of images; refuses one of feature vectors."""
    if isinstance(split, FeatureSplit):
        raise ConfigError("data.select: chooses images, and the stage trains on feature vectors")
    return split


def build_order(config: OrderConfig, split: Split | FeatureSplit, seed: int) -> Order:
    """Return the order that `config` describes."""
    if config.images_per_class is not None:
        return ClassBalancedOrder(split.labels, config.images_per_class, seed)
    return ShuffledOrder(split.shard_sizes, seed, config.shuffle_block)


def build_plan(config: TrainConfig, data: Data, world_size: int) -> BatchPlan:
    """Return the division of an epoch; raises ConfigError when the data cannot serve it."""
    if config.episodes is not None:
        for pool in training_pools(config, data):
            config.episodes.check(pool)
        alone = config.episodes.varies or batcher_of(config).varies
        return BatchPlan.of_tasks(config.episodes, config.data.micro_batch, world_size, alone)
    order = build_order(config.data.order, training_pools(config, data)[0], 0)
    return BatchPlan.of(config.data, len(order), world_size)


def batcher_of(config: TrainConfig, grid_of: Any = None) -> Any:
    """Return the method's batcher; only views with masks need the backbone's `grid_of`."""
    assert config.images is not None
    return METHODS.get(config.method.name).batcher(config.method, config.images, grid_of)


def build_data_set(
    config: TrainConfig, data: Data, plan: BatchPlan, grid_of: Any, rank: int
) -> StepDataset:
    """Return the batches of one rank."""
    assert config.images is not None
    seed, batcher = config.seed or 0, batcher_of(config, grid_of)
    pools = training_pools(config, data)
    keep = config.data.cache == "decoded"
    stores = [open_store(pool, config.images.mode, keep) for pool in pools]
    if config.episodes is not None:
        sampler = EpisodeSampler(pools, config.episodes, seed)
        store = PooledStore(stores, sampler.starts) if len(stores) > 1 else stores[0]
        return EpisodeSteps(store, sampler, plan, batcher, rank=rank)
    assert isinstance(stores[0], ImageStore)
    order = build_order(config.data.order, pools[0], seed)
    return ImageSteps(stores[0], order, plan, batcher, seed=seed, rank=rank)
