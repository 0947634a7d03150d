from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fsl.augment.config import AffineJitter
from fsl.augment.draws import Slot, uniforms
from fsl.augment.simclr_episodes import (
    BLOCK,
    EpisodeStream,
    SimCLREpisodeConfig,
    query_sources,
    simclr_episode,
    simclr_views,
    squared,
)
from fsl.augment.simclr_ops import brightened, contrasted
from fsl.batchers import EpisodeLayout
from fsl.config import build
from fsl.errors import ConfigError, FewShotError
from fsl.images import ImageSpec
from fsl.testing import assert_same_batch
from fsl.types import Episode

RGB = ImageSpec(size=32, normalisation="half")
GREY = ImageSpec(size=32, normalisation="half", mode="grey")
SUPPORT = [2, 0, 0, 1, 2, 0, 2]
QUERY = [0, 0, 1, 1, 1, 2]
OFF: dict[str, Any] = {
    "scale": (1.0, 1.0),
    "aspect": (1.0, 1.0),
    "flip": 0.0,
    "jitter": 0.0,
    "grayscale": 0.0,
    "blur": 0.0,
}


def decoded(spec: ImageSpec = RGB, count: int = len(SUPPORT) + len(QUERY)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    sides = [(32, 32), (40, 30), (50, 64)]
    return [
        torch.randint(
            0, 256, (spec.channels, *sides[i % 3]), generator=generator, dtype=torch.uint8
        )
        for i in range(count)
    ]


def layout(tasks: int = 1) -> EpisodeLayout:
    rows = torch.tensor([SUPPORT]), torch.tensor([QUERY])
    support, query = (row.expand(tasks, -1) for row in rows)
    return EpisodeLayout(np.arange(tasks), support, query, 3)


def episode(spec: ImageSpec = RGB, first_seed: int = 0, **settings: object) -> Episode:
    seeds = [first_seed + 11 * place for place in range(len(SUPPORT) + len(QUERY))]
    config = SimCLREpisodeConfig.model_validate(settings)
    return simclr_episode(decoded(spec), layout(), seeds, spec, config)


def views(count: int, stream: EpisodeStream = EpisodeStream.QUERY, **settings: Any) -> Tensor:
    """One image under many seeds, back in [0, 1]."""
    square = squared(decoded(count=1), RGB).expand(count, -1, -1, -1)
    config = SimCLREpisodeConfig.model_validate(OFF | settings)
    seeds = np.arange(count, dtype=np.uint64)
    return simclr_views(square, seeds, stream, RGB, config) / 2 + 0.5


def original() -> Tensor:
    return squared(decoded(count=1), RGB).float() / 255


def test_every_support_image_is_a_class_and_the_first_of_each_class_come_again() -> None:
    made = episode(**OFF)
    assert made.ways == len(SUPPORT)
    assert made.support_labels.tolist() == [list(range(len(SUPPORT)))]
    # class 0 had two queries, class 1 three but one support image, class 2 one
    assert made.query_labels.tolist() == [[0, 1, 2, 3]]
    squares = squared(decoded()[: len(SUPPORT)], RGB).float() / 255
    torch.testing.assert_close(made.support_images[0] / 2 + 0.5, squares)
    torch.testing.assert_close(made.query_images[0], made.support_images[0, :4])


@pytest.mark.parametrize("seed", range(4))
def test_query_sources_equal_a_loop_over_classes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ways = 6
    support = torch.cat([torch.arange(ways), torch.randint(ways, (14,), generator=generator)])
    support = support[torch.randperm(20, generator=generator)]
    query = torch.randint(ways, (15,), generator=generator)
    expected = []
    for way in range(ways):
        places = [place for place, label in enumerate(support.tolist()) if label == way]
        expected += places[: query.tolist().count(way)]
    assert query_sources(support, query, ways).tolist() == sorted(expected)


def test_support_and_queries_are_changed_independently() -> None:
    made = episode(blur=0.0)
    again = made.support_images[0, made.query_labels[0]]
    assert (again - made.query_images[0]).abs().flatten(1).max(1).values.min() > 0.1


def test_equal_seeds_give_equal_episodes_and_others_do_not() -> None:
    state = torch.random.get_rng_state()
    made = episode()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same_batch(episode(), made)
    assert not torch.equal(episode(first_seed=1).support_images, made.support_images)


def test_an_image_changes_by_its_own_seed_only() -> None:
    count = BLOCK + 6
    squares = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    seeds = np.arange(count, dtype=np.uint64)
    config = SimCLREpisodeConfig()
    whole = simclr_views(squares, seeds, EpisodeStream.QUERY, RGB, config)
    part = simclr_views(squares[60:68], seeds[60:68], EpisodeStream.QUERY, RGB, config)
    torch.testing.assert_close(whole[60:68], part)


def test_only_queries_are_blurred() -> None:
    blur = {"blur": 1.0, "blur_radius": (1.5, 2.0)}
    support = views(1, EpisodeStream.SUPPORT, **blur)
    torch.testing.assert_close(support, original())
    query = views(1, EpisodeStream.QUERY, **blur)
    assert query.std() < 0.7 * original().std()
    assert query[..., 0, :].mean() < 0.8 * query[..., 10:20, :].mean()  # black comes in


def test_small_crops_are_taken_from_everywhere() -> None:
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(
        400, 3, 32, 32
    )  # dark left, light right
    config = SimCLREpisodeConfig.model_validate(OFF | {"scale": (0.08, 1.0), "aspect": (0.75, 1.3)})
    made = simclr_views(ramp, np.arange(400, dtype=np.uint64), EpisodeStream.SUPPORT, RGB, config)
    levels = (made / 2 + 0.5).mean((1, 2, 3))
    assert levels.min() < 0.25
    assert levels.max() > 0.75
    assert abs(levels.mean() - ramp.float().mean() / 255) < 0.03
    widths = made[..., 0, -1].mean(1) - made[..., 0, 0].mean(1)
    assert (widths > 0).all()  # no flip


def test_flip_mirrors_half_of_the_views() -> None:
    made, mirrored = views(200, flip=0.5), original().flip(-1)
    share = torch.stack(
        [torch.allclose(view, mirrored[0], atol=1e-5) * torch.ones(()) for view in made]
    )
    assert 0.35 < share.mean() < 0.65


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_change_has_its_own_strength(name: str) -> None:
    others: dict[str, Any] = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    torch.testing.assert_close(views(3, jitter=1.0, **others), original().expand(3, -1, -1, -1))
    made = views(50, jitter=1.0, **(others | {name: 0.5}))
    assert (made - original()).abs().flatten(1).max(1).values.mean() > 0.05
    assert made.min() >= 0
    assert made.max() <= 1


def test_brightness_is_added_evenly_over_its_range() -> None:
    grey = torch.full((4000, 1, 8, 8), 128, dtype=torch.uint8)
    config = SimCLREpisodeConfig.model_validate(
        OFF | {"jitter": 0.8, "brightness": 0.4, "contrast": 0.0}
    )
    seeds = np.arange(4000, dtype=np.uint64)
    spec = ImageSpec(size=8, mode="grey", normalisation="half")
    made = simclr_views(grey, seeds, EpisodeStream.SUPPORT, spec, config)[:, 0, 0, 0] / 2 + 0.5
    change = made - 128 / 255
    changed = change.abs() > 1e-6
    assert abs(changed.float().mean() - 0.8) < 0.03
    assert abs(change[changed].mean()) < 0.02
    assert abs(change[changed].std() - 0.8 / 12**0.5) < 0.02
    assert change.abs().max() <= 0.4 + 1e-6


def test_colours_change_in_random_order_and_are_clipped_in_between() -> None:
    count = 60
    made = views(count, jitter=1.0, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0)
    u = uniforms(np.arange(count, dtype=np.uint64), EpisodeStream.QUERY, 1)[:, 0]
    signed = torch.from_numpy(2 * u[:, Slot.FACTORS : Slot.FACTORS + 2] - 1).float()
    delta, factor = 0.6 * signed[:, 0], 1 + 0.6 * signed[:, 1]
    images = original().expand(count, -1, -1, -1)
    first = contrasted(brightened(images, delta).clamp(0, 1), factor).clamp(0, 1)
    second = brightened(contrasted(images, factor).clamp(0, 1), delta).clamp(0, 1)
    off = [(made - order).abs().flatten(1).max(1).values for order in (first, second)]
    assert (torch.minimum(*off) < 1e-5).all()
    assert 0.3 < (off[0] < 1e-5).float().mean() < 0.7


def test_grey_views_have_equal_channels() -> None:
    made = views(300, grayscale=0.2)
    equal = (made - made[:, :1]).abs().flatten(1).max(1).values < 1e-6
    assert 0.1 < equal.float().mean() < 0.3


def test_grey_images_work_with_the_defaults() -> None:
    made = episode(GREY)
    assert made.support_images.shape == (1, len(SUPPORT), 1, 32, 32)
    assert torch.isfinite(made.query_images).all()


def test_glyphs_are_warped() -> None:
    jitter = AffineJitter(rotation=20, translate=0.1, stroke=2.0)
    still = episode(GREY, **OFF)
    plain = episode(GREY, **OFF, affine=AffineJitter())
    torch.testing.assert_close(plain.support_images, still.support_images, rtol=1e-4, atol=1e-4)
    warped = episode(GREY, **OFF, affine=jitter)
    assert (warped.support_images - still.support_images).abs().flatten(2).max(2).values.min() > 0.1
    assert not torch.equal(warped.support_images[0, :4], warped.query_images[0])


def test_images_of_another_mode_are_refused() -> None:
    with pytest.raises(FewShotError, match=r"image 0 of the batch is torch\.uint8"):
        simclr_episode(decoded(GREY), layout(), range(13), RGB, SimCLREpisodeConfig())


def test_feature_vectors_are_refused() -> None:
    with pytest.raises(ConfigError, match="this split has feature vectors"):
        simclr_episode(torch.rand(13, 8, 1, 1), layout(), range(13), RGB, SimCLREpisodeConfig())


def test_one_task_at_a_time() -> None:
    with pytest.raises(ValueError, match="1 task, not of 2"):
        simclr_episode(decoded() * 2, layout(2), range(26), RGB, SimCLREpisodeConfig())


@pytest.mark.parametrize("key", ["scale", "aspect", "blur_radius"])
def test_ranges_that_run_backwards_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="runs backwards; swap the two"):
        build(SimCLREpisodeConfig, {key: [1.0, 0.5]})
