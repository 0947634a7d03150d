"""Variable way/shot episodes: the released sampler's draws through our rules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from data_shards.variable_episodes import (
    VariableEpisodes,
    queries_per_class,
    shots_per_class,
    support_size,
    ways_range,
)

if TYPE_CHECKING:
    Archive = Any

DEFAULTS = VariableEpisodes()


def episodes(archive: Archive) -> list[str]:
    return sorted({key.partition("/")[0] for key in archive.keys if key.endswith("/class_sizes")})


@pytest.mark.archive("ctx.episode_sampler")
def test_the_released_streams_give_the_released_episodes(archive: Archive) -> None:
    names = episodes(archive)
    assert names
    for name in names:
        stream = np.random.RandomState(archive.integer("cfg/seed_base") + int(name.strip("ep")))
        sizes = archive.array(f"{name}/class_sizes").astype(np.int64)
        low, high = ways_range(len(sizes), DEFAULTS.min_ways, DEFAULTS.max_ways)
        ways = stream.randint(low, high + 1)
        classes = stream.choice(len(sizes), ways, replace=False)
        assert classes.tolist() == archive.array(f"{name}/class_ids").tolist()
        drawn = sizes[classes]
        queries = queries_per_class(drawn, DEFAULTS.max_queries)
        assert queries == archive.integer(f"{name}/num_query")
        support = support_size(
            drawn, queries, stream.uniform(), DEFAULTS.max_support_per_class, DEFAULTS.max_support
        )
        assert support == archive.integer(f"{name}/support_set_size")
        spread = math.log(DEFAULTS.imbalance)
        shots = shots_per_class(drawn, queries, support, stream.uniform(-spread, spread, ways))
        assert shots.tolist() == archive.array(f"{name}/num_support").tolist()
