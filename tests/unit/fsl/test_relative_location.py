"""DRLoc: what the paper and the definitions of its parts say."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from fsl.losses.relative_location import (
    Grid,
    LocationWeight,
    TargetScale,
    class_targets,
    location_cross_entropy,
    location_gaussian,
    location_l1,
    location_targets,
    offset_classes,
    pair_offsets,
    permutation_pairs,
    random_pairs,
)
from fsl.modules import relative_location_head
from fsl.modules.relative_location_head import (
    LocationClassifier,
    LocationRegressor,
    gather_then_project,
    pair_linear,
    project_then_gather,
    projects_first,
)

WIDTH, HIDDEN = 6, 16
BOTH = pytest.mark.parametrize("layer", [project_then_gather, gather_then_project])
CLASS_LOSSES = (location_cross_entropy, location_gaussian)
SCALES: tuple[TargetScale, ...] = ("cell", "span", "unit")


def all_pairs(grid: Grid) -> Tensor:
    """Every ordered pair of cells once, (1, L * L, 2)."""
    cells = torch.arange(grid[0] * grid[1])
    return torch.cartesian_prod(cells, cells)[None]


def l1_loss(tokens: Tensor, pairs: Tensor, grid: Grid, head: LocationRegressor) -> Tensor:
    return location_l1(head(tokens, pairs), location_targets(pairs, grid))


def test_all_pairs_of_cells_are_equally_likely() -> None:
    pairs = random_pairs(100, 2000, (3, 4))
    found = (pairs[..., 0] * 12 + pairs[..., 1]).flatten().bincount(minlength=144)
    expected = 200_000 / 144
    assert (found - expected).abs().max() < 5 * expected**0.5


@pytest.mark.parametrize("side", [1, 4, 7])
def test_offsets_of_equally_likely_pairs_have_known_probabilities(side: int) -> None:
    known = torch.tensor([1 / side] + [2 * (side - a) / side**2 for a in range(1, side)])
    for pairs, atol in (
        (all_pairs((side, side)), 1e-6),
        (random_pairs(400, 500, (side,) * 2), 6e-3),
    ):
        distance = pair_offsets(pairs, (side, side)).abs()
        for axis in distance.unbind(-1):
            found = axis.flatten().bincount(minlength=side) / axis.numel()
            torch.testing.assert_close(found, known, rtol=0, atol=atol)
    exact = pair_offsets(all_pairs((side, side)), (side, side)).abs().float().mean().item()
    assert exact == pytest.approx((side**2 - 1) / (3 * side))


def test_the_best_constant_prediction_is_off_by_1_3469_cells() -> None:
    targets = location_targets(all_pairs((7, 7)), (7, 7))
    errors = [location_l1(torch.full_like(targets, guess), targets) for guess in range(7)]
    assert min(errors).item() == pytest.approx(1.3469, abs=1e-4)


def test_pairs_come_from_the_generator_that_is_passed() -> None:
    draw: list[Callable[[torch.Generator | None], Tensor]] = [
        lambda generator: random_pairs(3, 20, (4, 4), generator=generator),
        lambda generator: permutation_pairs(3, (4, 4), generator=generator),
    ]
    for pairs in draw:
        once, again = (pairs(torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(once, again)
        assert not torch.equal(once, pairs(None))
        assert not torch.equal(pairs(None), pairs(None))
        assert not torch.equal(once[0], once[1])  # every image has its own


def test_permuted_pairs_hold_each_cell_twice() -> None:
    pairs = permutation_pairs(5, (2, 3))
    cells = torch.arange(6).expand(5, 6)
    assert torch.equal(pairs[..., 0], cells)
    assert torch.equal(pairs[..., 1].sort(1).values, cells)


def test_offsets_and_targets_of_a_wide_grid_count_rows_and_columns() -> None:
    grid = (2, 3)
    places = list(product(range(2), range(3)))
    ordered = [(p[0] - q[0], p[1] - q[1]) for p, q in product(places, places)]
    expected = torch.tensor(ordered)[None]
    pairs = all_pairs(grid)
    assert torch.equal(pair_offsets(pairs, grid), expected)
    sides = torch.tensor(grid)
    assert torch.equal(class_targets(pairs, grid, signed=True), expected + sides - 1)
    spans = location_targets(pairs, grid, signed=True, scale="span")
    torch.testing.assert_close(spans, (expected + sides - 1) / (2 * (sides - 1)))
    units = location_targets(pairs, grid, scale="unit")
    torch.testing.assert_close(units, expected.abs() / sides)


@BOTH
def test_a_wide_map_is_read_as_by_a_slow_gather(layer: Callable[..., Tensor]) -> None:
    maps, pairs = torch.randn(2, WIDTH, 2, 3), random_pairs(2, 9, (2, 3))
    members = layer(maps.flatten(2).mT, pairs, torch.eye(2 * WIDTH), torch.zeros(2 * WIDTH))
    for image, pair in product(range(2), range(9)):
        first, second = pairs[image, pair].tolist()
        expected = [maps[image, :, cell // 3, cell % 3] for cell in (first, second)]
        assert torch.equal(members[image, pair], torch.cat(expected))


@pytest.mark.parametrize(("cells", "count"), [(4, 64), (64, 4), (9, 9), (1, 1), (1, 5)])
def test_both_ways_through_the_first_layer_equal_the_plain_one(cells: int, count: int) -> None:
    tokens = torch.randn(3, cells, WIDTH, dtype=torch.float64, requires_grad=True)
    plain = nn.Linear(2 * WIDTH, HIDDEN, dtype=torch.float64)
    pairs = torch.randint(cells, (3, count, 2))
    image = torch.arange(3)[:, None]
    members = [tokens[image, pairs[..., member]] for member in range(2)]
    expected = plain(torch.cat(members, -1))
    leaves = [tokens, *plain.parameters()]
    gradients = torch.autograd.grad(expected.sin().sum(), leaves)
    for layer in (project_then_gather, gather_then_project, pair_linear):
        actual = layer(tokens, pairs, plain.weight, plain.bias)
        torch.testing.assert_close(actual, expected)
        found = torch.autograd.grad(actual.sin().sum(), leaves)
        torch.testing.assert_close(found, gradients)


def test_cells_are_projected_first_where_that_saves_enough() -> None:
    assert projects_first(49, 64, 192)
    assert projects_first(49, 64, 768)
    assert not projects_first(49, 49, 768)  # as many products either way, but more to add up
    assert not projects_first(49, 64, 64)  # few products to save
    assert not projects_first(196, 64, 768)


@pytest.mark.parametrize("count", [3, 64])
def test_only_the_chosen_way_is_taken(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = {way.__name__: Mock(wraps=way) for way in (project_then_gather, gather_then_project)}
    for name, way in ways.items():
        monkeypatch.setattr(relative_location_head, name, way)
    tokens, pairs = torch.randn(2, 4, 64), random_pairs(2, count, (2, 2))
    pair_linear(tokens, pairs, torch.randn(HIDDEN, 128), torch.randn(HIDDEN))
    project = projects_first(4, count, 64)
    assert [way.call_count for way in ways.values()] == [project, not project]


@BOTH
def test_cells_in_no_pair_get_no_gradient(
    layer: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relative_location_head, "pair_linear", layer)
    tokens = torch.randn(2, 16, WIDTH, requires_grad=True)
    pairs = random_pairs(2, 4, (4, 4))
    loss = l1_loss(tokens, pairs, (4, 4), LocationRegressor(WIDTH, HIDDEN))
    (gradient,) = torch.autograd.grad(loss, tokens)
    drawn = torch.zeros(2, 16, dtype=torch.bool).scatter_(1, pairs.flatten(1), True)
    assert not gradient[~drawn].any()
    assert gradient[drawn].any(-1).all()


def test_the_order_of_pairs_means_nothing() -> None:
    grid = (4, 4)
    tokens, pairs = torch.randn(2, 16, WIDTH), random_pairs(2, 20, grid)
    moved = pairs[:, torch.randperm(20)]
    regressor = LocationRegressor(WIDTH, HIDDEN)
    torch.testing.assert_close(
        l1_loss(tokens, moved, grid, regressor), l1_loss(tokens, pairs, grid, regressor)
    )
    classifier = LocationClassifier(WIDTH, offset_classes(grid, signed=True), HIDDEN)
    for loss in CLASS_LOSSES:
        first, second = (
            loss(classifier(tokens, order), class_targets(order, grid, signed=True))
            for order in (pairs, moved)
        )
        torch.testing.assert_close(first, second)


def test_swapping_the_members_turns_signed_targets_round_and_keeps_the_others() -> None:
    grid = (3, 5)
    tokens, pairs = torch.randn(2, 15, WIDTH), random_pairs(2, 20, grid)
    swapped = pairs.flip(-1)
    for scale in SCALES:
        kept = location_targets(swapped, grid, scale=scale)
        assert torch.equal(kept, location_targets(pairs, grid, scale=scale))
    assert torch.equal(pair_offsets(swapped, grid), -pair_offsets(pairs, grid))
    head = LocationRegressor(WIDTH, HIDDEN)
    assert not torch.allclose(head(tokens, swapped), head(tokens, pairs))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("grid", [(1, 1), (1, 4)])
def test_one_cell_in_an_axis_has_only_offset_zero_and_finite_losses(
    grid: Grid, signed: bool
) -> None:
    pairs = random_pairs(2, 5, grid)
    tokens = torch.randn(2, grid[0] * grid[1], WIDTH, requires_grad=True)
    predictions = LocationRegressor(WIDTH, HIDDEN)(tokens, pairs)
    targets = [location_targets(pairs, grid, signed=signed, scale=scale) for scale in SCALES]
    assert not torch.stack(targets)[..., 0].any()
    losses = [location_l1(predictions, target) for target in targets]
    logits = LocationClassifier(WIDTH, offset_classes(grid, signed=signed), HIDDEN)(tokens, pairs)
    classes = class_targets(pairs, grid, signed=signed)
    losses += [loss(logits, classes) for loss in CLASS_LOSSES]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, tokens, retain_graph=True)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_more_pairs_than_cells() -> None:
    tokens, pairs = torch.randn(2, 4, WIDTH), random_pairs(2, 50, (2, 2))
    assert l1_loss(tokens, pairs, (2, 2), LocationRegressor(WIDTH, HIDDEN)).isfinite()


def test_the_gaussian_loss_is_its_formula_axis_by_axis() -> None:
    rows, columns = torch.randn(2, 3, 5).double(), torch.randn(2, 3, 9).double()
    targets = torch.stack([torch.randint(5, (2, 3)), torch.randint(9, (2, 3))], -1)
    expected = 0.0
    for axis, logits in enumerate((rows, columns)):
        for image, pair in product(range(2), range(3)):
            chances = logits[image, pair].softmax(0).tolist()
            mean = sum(chance * c for c, chance in enumerate(chances))
            variance = sum(chance * (c - mean) ** 2 for c, chance in enumerate(chances)) + 1e-8
            error = (mean - targets[image, pair, axis].item()) ** 2 / variance
            regularizer = 0.001 * math.log(variance)
            expected += (error + regularizer) / 6
    assert location_gaussian((rows, columns), targets).item() == pytest.approx(expected, rel=1e-5)


def test_a_certain_right_answer_costs_only_the_least_variance() -> None:
    targets = torch.randint(27, (4, 6, 2))
    rows, columns = (1e4 * nn.functional.one_hot(t, 27).float() for t in targets.unbind(-1))
    loss = location_gaussian((rows, columns), targets)
    assert loss.item() == pytest.approx(2 * 0.001 * math.log(1e-8), rel=1e-6)


@pytest.mark.parametrize("inside", [True, False])
def test_losses_are_float32_under_autocast_and_after_it(inside: bool) -> None:
    grid = (4, 4)
    tokens, pairs = torch.randn(2, 16, WIDTH), random_pairs(2, 64, grid)
    targets, classes = location_targets(pairs, grid), class_targets(pairs, grid)
    classifier = LocationClassifier(WIDTH, offset_classes(grid), HIDDEN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = LocationRegressor(WIDTH, HIDDEN)(tokens, pairs)
        logits = classifier(tokens, pairs)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
        losses = [location_l1(predictions, targets)]
        losses += [loss(logits, classes) for loss in CLASS_LOSSES]
    assert (predictions.dtype, logits[0].dtype) == (torch.float32, torch.bfloat16)
    exact = [location_l1(predictions.float(), targets)]
    exact += [loss((logits[0].float(), logits[1].float()), classes) for loss in CLASS_LOSSES]
    torch.testing.assert_close(losses, exact)  # also their type


def test_there_may_be_more_classes_than_offsets() -> None:
    tokens, pairs = torch.randn(2, 49, WIDTH), random_pairs(2, 64, (7, 7))
    logits = LocationClassifier(WIDTH, (27, 14), HIDDEN)(tokens, pairs)
    assert [axis.shape for axis in logits] == [(2, 64, 27), (2, 64, 14)]
    assert location_cross_entropy(logits, class_targets(pairs, (7, 7), signed=True)).isfinite()


@pytest.mark.parametrize(
    "head",
    [LocationRegressor(96, init_std=0.02), LocationClassifier(96, (7, 7), init_std=0.02)],
)
def test_weights_may_start_as_a_truncated_normal(head: nn.Module) -> None:
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.numel() > 10_000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.02)


def test_the_weight_rises_and_falls_by_epoch() -> None:
    weight = LocationWeight(0.5)
    assert [weight(epoch) for epoch in (0, 10, 20, 160, 300, 301)] == [0, 0.25, 0.5, 0.25, 0, 0]
    assert weight(100) == pytest.approx(0.714 * 0.5, abs=1e-3)  # where the authors' runs stop


def test_the_weight_may_be_constant_or_have_no_warm_up_or_nothing_after_it() -> None:
    assert [LocationWeight(0.3, "constant")(epoch) for epoch in (0, 20, 1000)] == [0.3] * 3
    assert LocationWeight(1.0, warmup_epochs=0, total_epochs=4)(0) == 1.0
    whole = LocationWeight(1.0, warmup_epochs=4, total_epochs=4)
    assert [whole(epoch) for epoch in (0, 2, 4, 5)] == [0, 0.5, 1, 0]
