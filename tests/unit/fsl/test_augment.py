"""The batchers: sizes, order, purity, independence of the batch, bad input."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fsl.augment import (
    AffineJitter,
    ColourJitter,
    LabelledBatcher,
    MultiCropBatcher,
    MultiCropConfig,
    SingleViewConfig,
    evaluation_images,
)
from fsl.augment.views import class_orientations
from fsl.backbones.vit import patch_grid
from fsl.errors import ConfigError, FewShotError
from fsl.images import ImageSpec
from fsl.masking import BlockMaskConfig
from fsl.types import MultiViewBatch

WARP = AffineJitter(rotation=15, shear=0.2, translate=0.1, scale=0.2, stroke=2)
SIZES = {"global_size": 32, "local_size": 16, "local_views": 3}
PLAIN: dict[str, Any] = {
    "flip": 0.0,
    "jitter": ColourJitter(probability=0),
    "grayscale": 0.0,
    "global_blur": (0.0, 0.0),
    "local_blur": 0.0,
    "solarize": 0.0,
}


def grid_of(size: int) -> tuple[int, int]:
    return size // 4, size // 4


def picture(number: int, height: int = 28, width: int = 28, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (channels, height, width), generator=generator).byte()


def batcher(mode: str = "rgb", **changes: Any) -> MultiCropBatcher:
    settings = MultiCropConfig(**{**SIZES, **changes})
    return MultiCropBatcher(settings, BlockMaskConfig(), ImageSpec(mode=mode), grid_of)


def make(
    made: MultiCropBatcher, images: Sequence[Tensor], seeds: Sequence[int], epoch: int = 0
) -> MultiViewBatch:
    return made(images, [seed % 5 for seed in seeds], seeds, epoch)


def of_image(batch: MultiViewBatch, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return global views, local views and masks of one image of the batch."""
    rows = slice(number, None, batch.size)
    return batch.global_views[rows], batch.local_views[rows], batch.masks[rows]


@pytest.mark.parametrize("mode", ["rgb", "grey"])
@pytest.mark.parametrize("affine", [None, WARP])
def test_a_batch_has_the_promised_shapes(mode: str, affine: AffineJitter | None) -> None:
    channels = 3 if mode == "rgb" else 1
    images = [picture(n, 20 + n, 30, channels) for n in range(4)]
    batch = make(batcher(mode, affine=affine), images, [3, 1, 4, 1])
    assert batch.global_views.shape == (2 * 4, channels, 32, 32)
    assert batch.local_views.shape == (3 * 4, channels, 16, 16)
    assert batch.masks.shape == (2 * 4, 8, 8)
    assert batch.masks.dtype == torch.bool
    assert batch.labels.tolist() == [3, 1, 4, 1]
    assert batch.size == 4
    assert batch.global_views.isfinite().all()


@pytest.mark.parametrize("mode", ["rgb", "grey"])
@pytest.mark.parametrize("affine", [None, WARP])
@pytest.mark.parametrize("turns", [False, True])
def test_an_image_gets_the_same_bits_whatever_shares_its_batch(
    mode: str, affine: AffineJitter | None, turns: bool
) -> None:
    channels = 3 if mode == "rgb" else 1
    made = batcher(mode, affine=affine, quarter_turns=turns, local_views=2)
    shapes = [(28, 28)] * 9 + [(17, 40), (28, 28), (9, 9), (17, 40)]
    images = [picture(n, *shape, channels) for n, shape in enumerate(shapes)]
    seeds = [2**62 + 7919 * n for n in range(len(images))]
    together = make(made, images, seeds, epoch=1)
    for low, high in [(0, 1), (1, 3), (3, 10), (10, 13)]:
        part = make(made, images[low:high], seeds[low:high], epoch=1)
        for number in range(low, high):
            for expected, found in zip(
                of_image(together, number), of_image(part, number - low), strict=True
            ):
                assert torch.equal(expected, found)


def test_equal_seeds_give_equal_views_and_other_seeds_others() -> None:
    image = picture(0)
    batch = make(batcher(), [image, image, image], [7, 7, 8])
    for first, second, third in zip(*(of_image(batch, n) for n in range(3)), strict=True):
        assert torch.equal(first, second)
        if first.dtype != torch.bool:
            assert not torch.equal(first, third)
    views = of_image(batch, 0)[0]
    assert not torch.equal(views[0], views[1])


def test_the_images_themselves_stay_as_they_were() -> None:
    images = [picture(n) for n in range(3)]
    for affine in (None, WARP):
        make(batcher(affine=affine, quarter_turns=True), images, [1, 2, 3])
    assert all(torch.equal(image, picture(n)) for n, image in enumerate(images))


def test_a_pickled_batcher_makes_the_same_batch() -> None:
    made = batcher(affine=WARP)
    copy = pickle.loads(pickle.dumps(made))
    one, two = (make(each, [picture(0)], [5]) for each in (made, copy))
    assert torch.equal(one.global_views, two.global_views)
    assert torch.equal(one.masks, two.masks)


def test_without_masks_and_local_views_both_are_empty() -> None:
    made = MultiCropBatcher(
        MultiCropConfig(global_size=32, local_views=0), None, ImageSpec(), grid_of
    )
    batch = make(made, [picture(0), picture(1)], [1, 2])
    assert not batch.masks.any()
    assert batch.local_views.shape == (0, 3, 96, 96)


def test_view_sizes_that_the_backbone_cannot_take_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="size 18 is not a multiple"):
        MultiCropBatcher(
            MultiCropConfig(global_size=32, local_size=18),
            None,
            ImageSpec(),
            lambda size: patch_grid(size, 4),
        )


def test_a_backbone_without_patches_gets_views_but_no_masks() -> None:
    crops = MultiCropConfig(**SIZES)
    batch = make(MultiCropBatcher(crops, None, ImageSpec(), None), [picture(0)], [1])
    assert batch.masks.shape == (2, 0, 0)
    with pytest.raises(ConfigError, match="no patches; set masks to null"):
        MultiCropBatcher(crops, BlockMaskConfig(), ImageSpec(), None)


def test_masks_start_with_their_epoch_and_differ_between_views() -> None:
    masks = BlockMaskConfig(ratios=(0.5,), spreads=(0.0,), start_epoch=2)
    made = MultiCropBatcher(MultiCropConfig(**SIZES), masks, ImageSpec(), grid_of)
    assert not make(made, [picture(0)], [1], epoch=1).masks.any()
    batch = make(made, [picture(0)], [1], epoch=2)
    assert batch.masks.any((1, 2)).all()
    assert not torch.equal(batch.masks[0], batch.masks[1])


def test_with_everything_off_a_view_is_a_normalised_crop_of_the_image() -> None:
    ramp = torch.arange(28, dtype=torch.uint8).mul(9).expand(3, 28, 28).contiguous()
    whole: dict[str, Any] = {"global_scale": (1.0, 1.0), "aspect": (1.0, 1.0), "global_size": 28}
    for affine in (None, AffineJitter()):
        batch = make(batcher(affine=affine, **{**PLAIN, **whole}), [ramp], [3])
        mean, std = (values[:, None, None] for values in ImageSpec().statistics())
        expected = (ramp / 255 - mean) / std
        for view in batch.global_views:
            torch.testing.assert_close(view, expected, atol=1e-3, rtol=0)


def test_flip_blur_and_solarise_come_as_often_as_set_per_view() -> None:
    ramp = torch.arange(16, dtype=torch.uint8).mul(16).expand(1, 16, 16).contiguous()
    count = 400
    settings = {**PLAIN, "flip": 0.5, "solarize": 0.2, "global_scale": (1.0, 1.0)}
    settings |= {"global_size": 16, "local_views": 0, "aspect": (1.0, 1.0)}
    batch = make(batcher("grey", **settings), [ramp] * count, range(count))
    first, second = batch.global_views.view(2, count, 16, 16).unbind(0)
    assert (first[:, 8, 0] > first[:, 8, -1]).float().mean() == pytest.approx(0.5, abs=0.07)
    solarised = second.amax((1, 2)) < second.max() - 0.5
    assert solarised.float().mean() == pytest.approx(0.2, abs=0.06)
    assert not (first.amax((1, 2)) < first.max() - 0.5).any()


def test_blur_comes_as_often_as_set_per_kind_of_view() -> None:
    board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255).byte()[None]
    count, one = 300, (1.0, 1.0)
    changes = {**PLAIN, "global_blur": (1.0, 0.1), "local_blur": 0.5, "local_scale": one}
    changes |= {"global_scale": one, "aspect": one, "local_size": 32, "blur_radius": (1.0, 2.0)}
    batch = make(batcher("grey", **changes), [board] * count, range(count))
    blurred = [
        (views.std((1, 2, 3)) < 1).float().view(-1, count).mean(1)
        for views in (batch.global_views, batch.local_views)
    ]
    assert blurred[0][0] == 1
    assert blurred[0][1].item() == pytest.approx(0.1, abs=0.06)
    assert blurred[1].mean().item() == pytest.approx(0.5, abs=0.06)


WHOLE: dict[str, Any] = {
    "global_scale": (1.0, 1.0),
    "aspect": (1.0, 1.0),
    "global_size": 28,
    **PLAIN,
}


def test_orientations_are_one_per_class_and_class_seed_and_all_eight_occur() -> None:
    drawn = [class_orientations(range(50), class_seed) for class_seed in range(40)]
    eight = [turns + 4 * mirrored for turns, mirrored in drawn]
    assert np.bincount(np.ravel(eight), minlength=8) == pytest.approx(np.full(8, 250), abs=60)
    alone = class_orientations([3], 7)
    for several, one in zip(class_orientations([3] * 3, 7), alone, strict=True):
        assert (several == one).all()


@pytest.mark.parametrize("settings", ["quarter_turns", "mirrors", "quarter_turns mirrors"])
def test_a_class_is_turned_and_mirrored_as_drawn(settings: str) -> None:
    image, label = picture(0, 28, 28, 1), 2
    chosen = settings.split()
    made = batcher("grey", **dict.fromkeys(chosen, True), **WHOLE)
    plain = batcher("grey", **WHOLE)
    for class_seed in range(12):
        (turn,), (mirrored,) = class_orientations([label], class_seed)
        seen = image.flip(2) if mirrored and "mirrors" in chosen else image
        seen = torch.rot90(seen, turn, (1, 2)) if "quarter_turns" in chosen else seen
        views = made([image], [label], [9], 0, class_seed).global_views
        assert torch.equal(views, plain([seen], [label], [9], 0).global_views)


@pytest.mark.parametrize("affine", [None, WARP])
@pytest.mark.parametrize(("height", "width"), [(1, 1000), (1000, 1), (1, 1), (3, 2)])
def test_degenerate_images_give_finite_views(
    height: int, width: int, affine: AffineJitter | None
) -> None:
    batch = make(batcher(affine=affine), [picture(0, height, width)], [1])
    assert batch.global_views.isfinite().all()
    assert batch.local_views.isfinite().all()


@pytest.mark.parametrize(
    "image", [picture(0, channels=1), picture(0).float(), picture(0)[0], picture(0)[:, :0]]
)
def test_an_image_of_another_kind_is_refused_with_its_place_and_shape(image: Tensor) -> None:
    for use in (batcher(), LabelledBatcher(ImageSpec(), SingleViewConfig())):
        with pytest.raises(FewShotError, match=r"image 1 of the batch is .*'rgb' needs"):
            use([picture(0), image], [0, 1], [1, 2], 0)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="no images"):
        batcher()([], [], [], 0)
    with pytest.raises(ConfigError, match="no images"):
        LabelledBatcher(ImageSpec())([], [], [], 0)


def test_a_grey_jpeg_decoded_as_rgb_gives_grey_but_jittered_views() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(0, 40, 50, 1)[0].numpy()).save(buffer, "JPEG")
    decoded = np.array(Image.open(buffer).convert("RGB"))
    image = torch.from_numpy(decoded).permute(2, 0, 1)
    batch = make(batcher(), [image], [1])
    mean, std = (values[:, None, None] for values in ImageSpec().statistics())
    pixels = batch.global_views * std + mean
    assert (pixels.amax(1) - pixels.amin(1)).max() < 0.01


class TestLabelledBatcher:
    def test_without_a_view_it_gives_evaluation_images(self) -> None:
        spec = ImageSpec(size=32)
        batch = LabelledBatcher(spec)([picture(0)], [4], [1], 0)
        assert torch.equal(batch.images, evaluation_images([picture(0)], spec))
        assert batch.labels.tolist() == [4]

    @pytest.mark.parametrize("affine", [None, WARP])
    def test_a_random_view_depends_on_the_seed_alone(self, affine: AffineJitter | None) -> None:
        use = LabelledBatcher(ImageSpec(size=32), SingleViewConfig(affine=affine))
        batch = use([picture(0), picture(1), picture(0)], [0, 1, 0], [5, 6, 5], 0)
        assert batch.images.shape == (3, 3, 32, 32)
        assert torch.equal(batch.images[0], batch.images[2])
        alone = use([picture(1)], [1], [6], 3)
        assert torch.equal(alone.images[0], batch.images[1])
