"""Turned classes, limits of labels, and batches of two views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fsl.augment import AffineJitter, LabelledBatcher, SingleViewConfig, evaluation_images
from fsl.augment.labelled import TwoViewBatcher, image_turns
from fsl.errors import ConfigError, FewShotError
from fsl.images import ImageSpec
from fsl.testing import assert_same_batch

SPEC = ImageSpec(size=32)
VIEWS = [
    None,
    SingleViewConfig(),
    SingleViewConfig(affine=AffineJitter(rotation=10, stroke=2), quarter_turns=True),
]
SEEDS = [2**62 + 977 * number for number in range(12)]
LABELS = [number % 3 for number in range(12)]


def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 28, 28) if number % 2 else (3, 20, 40) for number in range(12)]
    return [torch.randint(0, 256, shape, generator=generator).byte() for shape in shapes]


@pytest.mark.parametrize("view", VIEWS[:2])
def test_a_turned_class_is_the_turned_image_under_another_label(
    view: SingleViewConfig | None,
) -> None:
    batch = LabelledBatcher(SPEC, view, classes=3, turned_classes=True)(
        pictures(), LABELS, SEEDS, 0
    )
    turns = (batch.labels - torch.tensor(LABELS)) // 3
    assert torch.equal(batch.labels % 3, torch.tensor(LABELS))
    assert set(turns.tolist()) == {0, 1, 2, 3}
    turned = [torch.rot90(x, k, (1, 2)) for x, k in zip(pictures(), turns.tolist(), strict=True)]
    straight = LabelledBatcher(SPEC, view)(turned, LABELS, SEEDS, 0)
    assert torch.equal(batch.images, straight.images)


def test_turns_are_functions_of_the_seed_alone_and_all_are_equally_frequent() -> None:
    seeds = np.arange(4000, dtype=np.uint64) + np.uint64(2**61)
    turns = image_turns(seeds)
    assert np.bincount(turns, minlength=4) == pytest.approx(np.full(4, 1000), abs=110)
    assert (image_turns(seeds[7:9]) == turns[7:9]).all()
    use = LabelledBatcher(SPEC, classes=3, turned_classes=True)
    together, alone = (
        use(pictures(), LABELS, SEEDS, 0),
        use(pictures()[4:5], LABELS[4:5], SEEDS[4:5], 3),
    )
    assert torch.equal(together.images[4:5], alone.images)
    assert torch.equal(together.labels[4:5], alone.labels)


def test_without_turned_classes_the_number_of_classes_changes_nothing() -> None:
    one, two = (LabelledBatcher(SPEC, VIEWS[1], classes=count) for count in (None, 3))
    assert_same_batch(*(each(pictures(), LABELS, SEEDS, 0) for each in (one, two)))


def test_labels_beyond_the_number_of_classes_are_refused() -> None:
    for turned in (False, True):
        use = LabelledBatcher(SPEC, classes=2, turned_classes=turned)
        with pytest.raises(
            ConfigError, match=r"classes: 2, but .* number 2, counted from 0; leave"
        ):
            use(pictures(), LABELS, SEEDS, 0)


def test_turned_classes_need_their_number() -> None:
    with pytest.raises(ConfigError, match=r"turned_classes: .* set classes"):
        LabelledBatcher(SPEC, turned_classes=True)


@pytest.mark.parametrize("view", VIEWS[1:])
def test_two_views_have_the_promised_shapes_and_nothing_else(view: SingleViewConfig) -> None:
    batch = TwoViewBatcher(SPEC, view)(pictures(), LABELS, SEEDS, 0)
    assert batch.global_views.shape == (24, 3, 32, 32)
    assert (batch.local_views.numel(), batch.masks.numel()) == (0, 0)
    assert batch.labels.tolist() == LABELS
    assert batch.size == 12


@pytest.mark.parametrize("view", VIEWS[1:])
def test_the_first_view_is_that_of_supervised_training_and_the_second_another(
    view: SingleViewConfig,
) -> None:
    batch = TwoViewBatcher(SPEC, view)(pictures(), LABELS, SEEDS, 0)
    first, second = batch.global_views.chunk(2)
    assert torch.equal(first, LabelledBatcher(SPEC, view)(pictures(), LABELS, SEEDS, 0).images)
    assert (first != second).flatten(1).any(1).all()


def test_both_views_are_blurred_and_solarised_as_often_as_set() -> None:
    board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255).byte().expand(1, 32, 32)
    view = SingleViewConfig(
        scale=(1.0, 1.0), aspect=(1.0, 1.0), flip=0, blur=0.5, blur_radius=(2.0, 2.0),
        jitter={"probability": 0}, grayscale=0,
    )  # fmt: skip
    spec = ImageSpec(size=32, mode="grey")
    batch = TwoViewBatcher(spec, view)([board] * 200, [0] * 200, range(200), 0)
    blurred = (batch.global_views.std((1, 2, 3)) < 1).float().view(2, 200).mean(1)
    assert blurred.numpy() == pytest.approx([0.5, 0.5], abs=0.12)


def test_both_batchers_refuse_bad_images_before_anything_else() -> None:
    for use in (
        LabelledBatcher(SPEC, classes=3, turned_classes=True),
        TwoViewBatcher(SPEC, SingleViewConfig()),
    ):
        with pytest.raises(FewShotError, match="image 1 of the batch is"):
            use([pictures()[0], pictures()[1][0]], [0, 1], [1, 2], 0)
        with pytest.raises(ConfigError, match="no images"):
            use([], [], [], 0)


def test_the_evaluation_view_stays_what_it_was() -> None:
    batch = LabelledBatcher(SPEC, classes=3)(pictures(), LABELS, SEEDS, 0)
    assert torch.equal(batch.images, evaluation_images(pictures(), SPEC))
