"""Settings of the views: limits, defaults, search ranges."""

from __future__ import annotations

from typing import Any

import pytest

from fsl.augment import AffineJitter, MultiCropConfig
from fsl.config import build
from fsl.errors import ConfigError
from fsl.search_space import search_space


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"global_scale": [1.0, 0.4]}, "global_scale: the range .* runs backwards"),
        ({"local_scale": [0.0, 0.4]}, "local_scale.0: Input should be greater than 0"),
        ({"blur_radius": [2, 0.1]}, "blur_radius: the range"),
        ({"flip": 1.5}, "flip: Input should be less than or equal to 1"),
        ({"local_views": -1}, "local_views: Input should be greater than or equal to 0"),
        ({"jitter": {"hue": 0.6}}, "jitter.hue: Input should be less than or equal to 0.5"),
        ({"affine": {"stroke": 0.5}}, "affine.stroke: Input should be greater than or equal to 1"),
        ({"global_blurr": [1, 1]}, "global_blurr: unknown key; did you mean 'global_blur'"),
    ],
)
def test_settings_out_of_their_limits_are_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(MultiCropConfig, tree)


def test_the_defaults_are_the_published_recipe() -> None:
    large, small = MultiCropConfig().global_kind(), MultiCropConfig().local_kind()
    assert (large.views, large.size, large.scale) == (2, 224, (0.4, 1.0))
    assert (small.views, small.size, small.scale) == (10, 96, (0.05, 0.4))
    assert (large.blur, large.solarise) == ((1.0, 0.1), (0, 0.2))
    assert (set(small.blur), set(small.solarise)) == ({0.5}, {0.0})
    assert MultiCropConfig().affine is None


def test_every_search_range_holds_only_valid_settings() -> None:
    settings = MultiCropConfig(affine=AffineJitter())
    for key, domain in search_space(settings).items():
        options = getattr(domain, "options", None) or (domain.low, domain.high)  # type: ignore[union-attr]
        for value in options:
            build(MultiCropConfig, settings.model_dump(), {key: value})
