"""Dense relative localization: pairs, targets, losses, gradients, schedule and pooled grids."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from fsl.losses.relative_location import (
    AxisLogits,
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
)
from fsl.modules import relative_location_head
from fsl.modules.relative_location_head import (
    LocationClassifier,
    LocationRegressor,
    gather_then_project,
    pool_grid,
    project_then_gather,
)

if TYPE_CHECKING:
    Archive = Any

Head = LocationRegressor | LocationClassifier
CLASS_LOSSES = {"ce": location_cross_entropy, "cbr": location_gaussian}


@pytest.fixture(params=[project_then_gather, gather_then_project])
def layer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tensor]:
    """Both ways through the first layer, whichever suits the archive's sizes."""
    monkeypatch.setattr(relative_location_head, "pair_linear", request.param)
    chosen: Callable[..., Tensor] = request.param
    return chosen


def tokens_of(maps: Tensor) -> tuple[Tensor, Grid]:
    """Maps (B, C, H, W) as tokens (B, H * W, C) and their grid."""
    return maps.flatten(2).mT, (maps.shape[2], maps.shape[3])


def maps_of(tokens: Tensor, grid: Grid) -> Tensor:
    return tokens.mT.reshape(len(tokens), -1, *grid)


def pairs_of(first: Tensor, second: Tensor, grid: Grid) -> Tensor:
    """Coordinates (B, M, 2) of both members as cells (B, M, 2)."""
    cells = [member[..., 0].long() * grid[1] + member[..., 1].long() for member in (first, second)]
    return torch.stack(cells, -1)


def renamed(name: str, classifier: bool) -> str:
    """Our name of a parameter of the original: its `layers` are numbered with the ReLUs."""
    layer, _, kind = name.rpartition(".")
    ours = {
        "layers.0": "first",
        "layers.2": "second",
        "layers.4": "third" if classifier else "offsets",
        "unshared.0": "rows",
        "unshared.1": "columns",
    }
    return f"{ours[layer]}.{kind}"


def head_with(weights: dict[str, Tensor]) -> Head:
    """Our head of the same widths with these weights, named as in the original."""
    classifier = "unshared.0.weight" in weights
    hidden, members = weights["layers.0.weight"].shape
    head: Head
    if classifier:
        classes = (len(weights["unshared.0.bias"]), len(weights["unshared.1.bias"]))
        head = LocationClassifier(members // 2, classes, hidden)
    else:
        head = LocationRegressor(members // 2, hidden)
    head.load_state_dict({renamed(name, classifier): value for name, value in weights.items()})
    return head


def stored_weights(archive: Archive) -> dict[str, Tensor]:
    """The state dict, whole or as integers with a scale and a shift."""
    weights: dict[str, Tensor] = archive.under("w.")
    for name, steps in archive.under("wq.").items():
        weights[name] = steps.float() * archive[f"ws.{name}"] + archive[f"wb.{name}"]
    assert weights
    return weights


def assert_near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def assert_gradient(actual: Tensor | None, expected: Tensor, size: Tensor | None = None) -> None:
    """To 1e-5, or closer where all of the gradient (`size` for a sum of one) is small."""
    assert actual is not None
    largest = (expected if size is None else size).abs().max().item()
    atol = min(1e-5, 1e-4 * largest)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=atol)


def assert_gradients(archive: Archive, gradients: dict[str, Tensor], classifier: bool) -> None:
    """Compare every gradient of parameters that the archive has, whole or as sums and norms."""
    summaries: dict[str, Callable[[Tensor], Tensor]] = {
        "gw.": lambda g: g,
        "g.": lambda g: g,
        "gnorm.": lambda g: g.norm(),
        "growsum.": lambda g: g.sum(1),
        "gcolsum.": lambda g: g.sum(0),
    }
    compared = set()
    for prefix, summary in summaries.items():
        for name, expected in archive.under(prefix).items():
            ours = renamed(name, classifier)
            compared.add(ours)
            assert_gradient(summary(gradients[ours]), expected, size=gradients[ours])
    assert compared == set(gradients)


@pytest.mark.archive("drloc.loss")
@pytest.mark.usefixtures("layer")
def test_targets_predictions_losses_and_gradients(archive: Archive) -> None:
    mode, signed = str(archive.array("mode")), not bool(archive.array("use_abs"))
    tokens, grid = tokens_of(archive["x"])
    tokens.requires_grad_()
    assert grid == (archive.integer("k"), archive.integer("k"))
    pairs = pairs_of(archive["pxs"], archive["pys"], grid)
    head = head_with(stored_weights(archive))
    predictions: Tensor | AxisLogits = head(tokens, pairs)
    if isinstance(predictions, Tensor):
        scale: TargetScale = "span" if bool(archive.array("normalize")) else "cell"
        targets = location_targets(pairs, grid, signed=signed, scale=scale)
        loss, laid = location_l1(predictions, targets), predictions
    else:
        targets = class_targets(pairs, grid, signed=signed)
        loss, laid = CLASS_LOSSES[mode](predictions, targets), torch.stack(predictions, -1)
    torch.testing.assert_close(targets.flatten(0, 1).float(), archive["delta"])
    assert_near(laid.flatten(0, 1), archive["pred"])
    assert_near(loss, archive["loss_unweighted"])
    weighted = archive.number("lam") * loss
    assert_near(weighted, archive["loss"])
    torch.autograd.backward(weighted)
    assert tokens.grad is not None
    inputs = maps_of(tokens.grad, grid)
    assert_gradient(inputs, archive["grad_x"])
    gradients = {name: p.grad for name, p in head.named_parameters() if p.grad is not None}
    assert_gradients(archive, gradients, isinstance(head, LocationClassifier))


@pytest.mark.archive("drloc.sampling")
def test_members_stand_next_to_each_other(archive: Archive, layer: Callable[..., Tensor]) -> None:
    tokens, grid = tokens_of(archive["x"])
    pairs = pairs_of(archive["pxs"], archive["pys"], grid)
    width = 2 * tokens.shape[2]
    members = layer(tokens, pairs, torch.eye(width), torch.zeros(width))
    torch.testing.assert_close(members, archive["concat"], rtol=0, atol=0)
    both = torch.cat([archive["gathered_first"], archive["gathered_second"]], -1)
    torch.testing.assert_close(members, both, rtol=0, atol=0)


@pytest.mark.archive("drloc.sampling")
def test_all_definitions_of_targets(archive: Archive) -> None:
    _, grid = tokens_of(archive["x"])
    pairs = pairs_of(archive["pxs"], archive["pys"], grid)
    torch.testing.assert_close(pair_offsets(pairs, grid).float(), archive["delta_raw"])
    scales: dict[TargetScale, str] = {"cell": "code", "span": "code_norm", "unit": "paper"}
    for scale, name in scales.items():
        for signed, sign in ((False, "abs"), (True, "signed")):
            targets = location_targets(pairs, grid, signed=signed, scale=scale)
            torch.testing.assert_close(targets, archive[f"target_{sign}_{name}"])
    for signed, sign in ((False, "abs"), (True, "signed")):
        classes = class_targets(pairs, grid, signed=signed)
        torch.testing.assert_close(classes.float(), archive[f"target_{sign}_code"])


@pytest.mark.archive("drloc.all_positions")
@pytest.mark.usefixtures("layer")
def test_every_cell_with_a_permuted_one(archive: Archive) -> None:
    tokens, grid = tokens_of(archive["x"])
    tokens.requires_grad_()
    first = permutation_pairs(len(tokens), grid)[..., 0]
    pairs = torch.stack([first, archive["perm"]], -1)
    head = head_with(stored_weights(archive))
    predictions = head(tokens, pairs)
    assert_near(predictions, archive["pred"])
    torch.testing.assert_close(pair_offsets(pairs, grid).float(), archive["delta_raw"])
    loss = location_l1(predictions, location_targets(pairs, grid))
    assert_near(loss, archive["loss_abs_l1"])
    torch.autograd.backward(loss)
    assert tokens.grad is not None
    inputs = maps_of(tokens.grad, grid)
    assert_gradient(inputs, archive["grad_x"])
    gradients = {name: p.grad for name, p in head.named_parameters() if p.grad is not None}
    assert_gradients(archive, gradients, classifier=False)


@pytest.mark.archive("drloc.multilayer")
@pytest.mark.usefixtures("layer")
def test_layers_add_up(archive: Archive) -> None:
    layers = sum(re.fullmatch(r"x\d+", key) is not None for key in archive.keys)
    assert layers > 1
    inputs, heads, losses = [], [], []
    for i in range(layers):
        tokens, grid = tokens_of(archive[f"x{i}"])
        inputs.append(tokens.requires_grad_())
        pairs = pairs_of(archive[f"pxs{i}"], archive[f"pys{i}"], grid)
        heads.append(head_with(archive.under(f"w.{i}.")))
        predictions, targets = heads[i](tokens, pairs), location_targets(pairs, grid)
        assert_near(predictions.flatten(0, 1), archive[f"pred{i}"])
        torch.testing.assert_close(targets.flatten(0, 1), archive[f"delta{i}"])
        losses.append(location_l1(predictions, targets))
    loss = archive.number("lam") * torch.stack(losses).sum()
    assert_near(loss, archive["loss"])
    torch.autograd.backward(loss)
    for i, (tokens, head) in enumerate(zip(inputs, heads, strict=True)):
        expected = tokens_of(archive[f"grad_x{i}"])[0]
        assert_gradient(tokens.grad, expected)
        named = {renamed(name, False): g for name, g in archive.under(f"gw.{i}.").items()}
        for name, parameter in head.named_parameters():
            assert_gradient(parameter.grad, named[name])


@pytest.mark.archive("drloc.lambda_schedule")
def test_weights_by_epoch(archive: Archive) -> None:
    found = [re.fullmatch(r"lam(\d)(\d+)_w(\d+)_t(\d+)", key) for key in archive.keys]
    schedules = [match for match in found if match]
    assert schedules
    for match in schedules:
        peak, warmup, total = float(f"{match[1]}.{match[2]}"), int(match[3]), int(match[4])
        weight = LocationWeight(peak, warmup_epochs=warmup, total_epochs=total)
        expected = archive[match[0]]
        actual = [weight(epoch) for epoch in range(len(expected))]
        assert actual == pytest.approx(expected.tolist(), rel=0, abs=1e-12)


@pytest.mark.archive("drloc.pool_grid")
def test_pooled_grids(archive: Archive) -> None:
    sides = [int(key[2:]) for key in archive.keys if re.fullmatch(r"in\d+", key)]
    assert sides
    for side in sides:
        tokens, grid = tokens_of(archive[f"in{side}"])
        tokens = tokens.contiguous().requires_grad_()
        pooled, smaller = pool_grid(tokens, grid)
        maps = maps_of(pooled, smaller)
        assert_near(maps, archive[f"out{side}"])
        (gradient,) = torch.autograd.grad(pooled.square().sum(), tokens)
        expected = archive[f"gradsq{side}"]
        assert_gradient(maps_of(gradient, grid), expected)


@pytest.mark.parametrize("grid", [(14, 14), (5, 2), (1, 3)])
def test_pooled_cells_are_means_of_what_lies_inside_the_grid(grid: Grid) -> None:
    tokens = torch.randn(2, grid[0] * grid[1], 6)
    pooled, smaller = pool_grid(tokens, grid)
    assert smaller == tuple((side + 1) // 2 for side in grid)
    maps = tokens.view(2, *grid, 6)
    for row, column in product(*(range(side) for side in smaller)):
        around = maps[:, max(0, 2 * row - 1) : 2 * row + 2, max(0, 2 * column - 1) : 2 * column + 2]
        expected = around.flatten(1, 2).mean(1)
        torch.testing.assert_close(pooled[:, row * smaller[1] + column], expected)


@pytest.mark.parametrize(
    ("head", "count"),
    [
        (LocationRegressor(768), 1_050_626),
        (LocationRegressor(384), 657_410),
        (LocationRegressor(2048), 2_361_346),
        (LocationClassifier(768, offset_classes((7, 7), signed=True)), 1_325_594),
        (LocationClassifier(384, offset_classes((14, 14), signed=True)), 946_742),
    ],
)
def test_numbers_of_parameters(head: nn.Module, count: int) -> None:
    assert sum(parameter.numel() for parameter in head.parameters()) == count
