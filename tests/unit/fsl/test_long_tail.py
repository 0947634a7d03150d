"""Long-tailed sets: sizes, which images, and the accuracies of frequent and rare classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fsl.errors import ConfigError
from fsl.long_tail import grouped_accuracy, imbalanced_counts, select_images, shot_groups
from fsl.losses.balanced_softmax import balanced_softmax_loss, log_counts

# Totals of CIFAR-LT, and its many/medium/few classes; equal to the frequency files of BatchFormer.
TOTALS = {
    (5000, 10): {10: 20_431, 50: 13_996, 100: 12_406, 200: 11_203},
    (500, 100): {10: 19_573, 50: 12_608, 100: 10_847, 200: 9_502},
}
GROUPS = {10: (69, 31, 0), 50: (41, 41, 18), 100: (35, 35, 30), 200: (30, 31, 39)}


@pytest.mark.parametrize(("largest", "classes"), TOTALS)
@pytest.mark.parametrize("ratio", [10, 50, 100, 200])
def test_cifar_lt_has_the_published_number_of_images(
    largest: int, classes: int, ratio: int
) -> None:
    counts = imbalanced_counts(largest, classes, ratio)
    assert counts.sum() == TOTALS[largest, classes][ratio]
    assert counts[0] == largest
    # floor(500 / 200) = 2
    assert counts[-1] == largest // ratio
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize("ratio", GROUPS)
def test_cifar_100_lt_has_the_published_groups(ratio: int) -> None:
    groups = shot_groups(imbalanced_counts(500, 100, ratio))
    assert tuple(int(group.sum()) for group in groups) == GROUPS[ratio]


@pytest.mark.parametrize(("classes", "whole"), [(10, 5), (7, 3), (2, 1)])
def test_a_step_leaves_the_first_half_whole(classes: int, whole: int) -> None:
    counts = imbalanced_counts(50, classes, 12.5, "step")
    assert counts.tolist() == [50] * whole + [4] * (classes - whole)


def test_whole_numbers_do_not_lose_an_image_to_rounding() -> None:
    for largest in range(1, 400):
        for divisor in range(1, largest + 1, 7):
            counts = imbalanced_counts(largest, 2, largest / divisor)
            assert counts.tolist() == [largest, divisor]


def test_ratio_one_changes_nothing() -> None:
    assert imbalanced_counts(7, 3, 1).tolist() == [7, 7, 7]


@pytest.mark.parametrize(("largest", "classes", "ratio"), [(5, 1, 2), (5, 3, 0.5), (5, 3, 6)])
def test_impossible_sets_are_refused(largest: int, classes: int, ratio: float) -> None:
    with pytest.raises(ConfigError, match=f"ratio {ratio:g}"):
        imbalanced_counts(largest, classes, ratio)


@pytest.mark.parametrize("published", [False, True])
def test_the_selection_has_the_asked_number_of_each_class(published: bool) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(6), 30))
    counts = imbalanced_counts(30, 6, 10)
    chosen = select_images(labels, counts, published=published)
    assert len(set(chosen.tolist())) == len(chosen)
    assert labels[chosen].tolist() == np.repeat(np.arange(6), counts).tolist()


def test_a_class_depends_on_the_seed_and_itself_only() -> None:
    labels = np.arange(200) % 4
    all_four = select_images(labels, [9, 9, 9, 9], seed=5)
    others = np.where(labels == 2, 2, (labels + 1) % 2)  # classes 0, 1 and 3 are mixed up
    alone = select_images(others, [0, 0, 9], seed=5)
    assert np.array_equal(all_four[18:27], alone)
    assert not np.array_equal(select_images(labels, [9, 9, 9, 9], seed=6)[18:27], alone)


def test_classes_do_not_keep_the_same_places() -> None:
    places = select_images(np.repeat([0, 1], 100), [20, 20]) % 100
    assert not np.array_equal(places[:20], places[20:])


def test_larger_ratios_select_parts_of_smaller_ones() -> None:
    labels = np.repeat(np.arange(5), 50)
    sets = [
        set(select_images(labels, imbalanced_counts(50, 5, ratio), seed=-3).tolist())
        for ratio in (50, 10, 2)
    ]
    assert sets[0] < sets[1] < sets[2]


def test_the_selection_is_pinned() -> None:
    # Made by this code; a change would silently change every long-tailed set.
    assert select_images(np.zeros(10, dtype=np.int64), [4], seed=0).tolist() == [0, 2, 9, 1]


def test_every_image_is_equally_likely() -> None:
    labels = np.zeros(20, dtype=np.int64)
    kept = np.concatenate([select_images(labels, [5], seed=seed) for seed in range(2000)])
    # 500 expected each, standard deviation 19
    assert np.abs(np.bincount(kept, minlength=20) - 500).max() < 100


def test_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="class 1 has 2 images, 3 should be kept"):
        select_images([0, 0, 0, 1, 1], [2, 3])
    with pytest.raises(ConfigError, match="class 2 has 0 images, 1 should"):
        select_images([0, 0, 1], [1, 1, 1])


def test_classes_beyond_the_counts_are_left_out() -> None:
    assert sorted(select_images([0, 2, 1, 0], [2, 1]).tolist()) == [0, 2, 3]


def test_groups_end_at_100_and_20() -> None:
    groups = shot_groups(torch.tensor([101, 100, 20, 19]))
    assert [group.tolist() for group in groups] == [
        [True, False, False, False],
        [False, True, True, False],
        [False, False, False, True],
    ]


def test_groups_are_means_of_class_accuracies_and_overall_is_of_images() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    predictions = torch.tensor([0, 0, 0, 1, 1, 0, 2])
    found = grouped_accuracy(predictions, labels, [200, 150, 5, 500])
    assert found == pytest.approx((5 / 7, (3 / 4 + 1 / 2) / 2, 0.0, 1.0))


def test_an_empty_group_and_an_empty_test_have_accuracy_zero() -> None:
    assert grouped_accuracy([], [], [200, 5]) == (0.0, 0.0, 0.0, 0.0)


def balanced(counts: Any, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    return logits, balanced_softmax_loss(logits, labels, log_counts(counts), **settings)


def test_balanced_softmax_weights_the_shares_by_the_counts() -> None:
    counts = torch.tensor([50.0, 5.0, 1.0])
    logits, losses = balanced(counts, reduction="none")
    shares = counts * logits.exp()
    shares = shares / shares.sum(1, keepdim=True)
    expected = -shares[torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])].log()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(balanced(counts)[1], expected.mean())


def test_equal_counts_are_plain_cross_entropy() -> None:
    logits, loss = balanced([7, 7, 7], label_smoothing=0.2)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=0.2))


def test_balanced_softmax_is_float32_under_autocast_and_keeps_float64() -> None:
    logits, labels = torch.randn(4, 3, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = balanced_softmax_loss(logits, labels, log_counts([9, 3, 1]))
    assert loss.dtype == torch.float32
    assert balanced_softmax_loss(logits.double(), labels, log_counts([1, 1, 1])).dtype == (
        torch.float64
    )


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="class 1 has 0 training images, and 2 of 4"):
        log_counts([3, 0, 5, 0])
