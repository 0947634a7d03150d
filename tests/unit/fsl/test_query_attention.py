from __future__ import annotations

import math
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from fsl.errors import ConfigError
from fsl.modules import query_attention
from fsl.modules.query_attention import CrossTransformerHead, query_distances, shot_groups

KEY, VALUE = 8, 5
EVEN = [[0, 1, 2, 2, 1, 0], [1, 1, 0, 0, 2, 2]]
UNEVEN = [[2, 0, 1, 1, 2, 2, 2, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2]]
WAYS = 3


def cells(*shape: int) -> Tensor:
    return torch.randn(*shape, KEY + VALUE, requires_grad=True)


def slow_distances(support: Tensor, labels: Tensor, query: Tensor, ways: int) -> Tensor:
    """One task, query, class and position after another."""
    rows = []
    for task in range(len(query)):
        for image in query[task]:
            for way in range(ways):
                known = support[task][labels[task] == way].flatten(0, 1)
                far = []
                for position in image:
                    scores = known[:, :KEY] @ position[:KEY] / math.sqrt(KEY)
                    found = scores.softmax(0) @ known[:, KEY:]
                    far.append((position[KEY:] - found).square().sum())
                rows.append(torch.stack(far).mean())
    return torch.stack(rows).view(*query.shape[:2], ways)


def distances(support: Tensor, labels: Tensor, query: Tensor, ways: int = WAYS) -> Tensor:
    return query_distances(support, labels, query, ways, key_dim=KEY)


@pytest.mark.parametrize("part_floats", [10**9, 150, 1])
@pytest.mark.parametrize("names", [EVEN, UNEVEN])
def test_distances_and_gradients_equal_loops_in_parts_of_any_size(
    names: list[list[int]], part_floats: int
) -> None:
    labels = torch.tensor(names)
    support, query = cells(2, labels.shape[1], 6), cells(2, 5, 4)  # 6 and 4 positions
    expected = slow_distances(support, labels, query, WAYS)
    actual = query_distances(support, labels, query, WAYS, key_dim=KEY, part_floats=part_floats)
    torch.testing.assert_close(actual, expected)
    leaves = [support, query]
    slow = torch.autograd.grad(expected.sin().sum(), leaves)
    fast = torch.autograd.grad(actual.sin().sum(), leaves)
    torch.testing.assert_close(fast, slow)


def test_large_parts_are_computed_again_and_small_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, support, query = torch.tensor(EVEN), cells(2, 6, 3), cells(2, 5, 4)
    floats = query[..., KEY:].numel() * WAYS
    for limit, calls in ((floats, 0), (floats - 1, 2)):  # four queries at a time, then the last
        again = Mock(side_effect=query_attention._again)
        with monkeypatch.context() as patch:
            patch.setattr(query_attention, "_again", again)
            query_distances(support, labels, query, WAYS, key_dim=KEY, part_floats=limit)
            with torch.no_grad():
                query_distances(support, labels, query, WAYS, key_dim=KEY, part_floats=limit)
        assert again.call_count == calls


def test_the_order_of_the_support_images_means_nothing() -> None:
    labels, support, query = torch.tensor(UNEVEN), cells(2, 9, 6), cells(2, 5, 4)
    order = torch.randperm(9)
    expected = distances(support, labels, query)
    torch.testing.assert_close(distances(support[:, order], labels[:, order], query), expected)


def test_renaming_the_classes_permutes_the_distances() -> None:
    labels, support, query = torch.tensor(UNEVEN), cells(2, 9, 6), cells(2, 5, 4)
    renamed = torch.tensor([2, 0, 1])
    expected = distances(support, labels, query)
    torch.testing.assert_close(distances(support, renamed[labels], query)[..., renamed], expected)


def test_the_order_of_positions_means_nothing() -> None:
    labels, support, query = torch.tensor(UNEVEN), cells(2, 9, 6), cells(2, 5, 4)
    expected = distances(support, labels, query)
    moved = distances(support[:, :, torch.randperm(6)], labels, query[:, :, torch.randperm(4)])
    torch.testing.assert_close(moved, expected)


def test_a_query_does_not_depend_on_the_others() -> None:
    labels, support, query = torch.tensor(UNEVEN), cells(2, 9, 6), cells(2, 5, 4)
    expected = distances(support, labels, query)[:, 1:2]
    torch.testing.assert_close(distances(support, labels, query[:, 1:2]), expected)


def test_a_query_that_is_in_the_support_is_at_distance_zero_when_attention_saturates() -> None:
    torch.manual_seed(3)
    head = CrossTransformerHead(32, 32, VALUE, init_std=1.0)
    images = torch.nn.functional.normalize(torch.randn(1, 6, 4, 32), dim=-1)
    encoded = head(torch.cat([100 * images, 100 * torch.randn(1, 1, 4, 32)], 1))
    labels = torch.arange(6)[None] % WAYS
    far = query_distances(encoded[:, :6], labels, encoded, WAYS, key_dim=32)[0]
    own = far[:6].gather(1, labels[0, :, None])
    assert own.max() < 1e-3
    assert far[6].min() > 1  # the seventh is no support image


def test_classes_of_similar_shots_go_together_and_padding_stays_below_twice() -> None:
    shots = torch.tensor([1, 100, 3, 60, 2, 30, 1])
    labels = torch.arange(7).repeat_interleave(shots)[torch.randperm(int(shots.sum()))]
    groups, columns = shot_groups(labels[None], 7)
    assert [tuple(group.images.shape) for group in groups] == [
        (1, 2, 100), (1, 1, 30), (1, 2, 3), (1, 2, 1),
    ]  # fmt: skip
    assert [group.valid is None for group in groups] == [False, True, False, True]
    assert sum(group.images.numel() for group in groups) < 2 * len(labels)
    members = []
    for images, valid in groups:
        kept = torch.ones_like(images, dtype=torch.bool) if valid is None else valid
        members += [sorted(row[k].tolist()) for row, k in zip(images[0], kept[0], strict=True)]
    for way, column in enumerate(columns[0].tolist()):
        assert members[column] == (labels == way).nonzero()[:, 0].tolist()


def test_equal_shots_are_one_group_without_mask() -> None:
    groups, _ = shot_groups(torch.tensor(EVEN), WAYS)
    assert len(groups) == 1
    assert groups[0].valid is None


def test_a_class_without_support_images_is_refused() -> None:
    labels = torch.tensor([[0, 1, 2], [0, 2, 2]])
    with pytest.raises(ConfigError, match="task 1 of the batch has a class without support"):
        distances(cells(2, 3, 4), labels, cells(2, 2, 4))


def test_distances_stay_float32_under_bfloat16_autocast() -> None:
    labels, support, query = torch.tensor(UNEVEN), cells(2, 9, 6), cells(2, 5, 4)
    expected = distances(support, labels, query)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = distances(support, labels, query)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_first_weights_are_a_normal_cut_at_two_deviations() -> None:
    weights = CrossTransformerHead(256, 128, 64, init_std=0.1).keys.weight
    assert weights.abs().max() <= 0.2
    assert abs(weights.std() - 0.1 * 0.8796) < 2e-3  # deviation of a normal cut at two of its own
