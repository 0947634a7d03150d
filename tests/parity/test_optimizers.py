"""Optimizers of the original implementations as torch's AdamW with settings per step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from fsl.optimization import (
    clip_value_then_norm_,
    normalise_gradients_,
    outer_epsilon,
    parameter_groups,
    unscaled_decay,
)
from fsl.schedules import StaircaseSchedule

if TYPE_CHECKING:
    Archive = Any

BETAS = (0.9, 0.999)


class Parameters(nn.Module):
    """The parameters of an archive; `grad/NAME` and the results have a row per step."""

    def __init__(self, archive: Archive) -> None:
        super().__init__()
        for name, value in archive.under("init/").items():
            self.register_parameter(name, nn.Parameter(value.clone()))
        self.archive = archive
        self.steps = int(next(iter(archive.under("grad/").values())).shape[0])

    def set_gradients(self, step: int) -> None:
        for name, parameter in self.named_parameters():
            parameter.grad = self.archive[f"grad/{name}"][step].clone()

    def check(self, key: str, step: int, values: dict[str, Tensor], atol: float) -> None:
        for name, value in values.items():
            expected = self.archive[f"{key}/{name}"][step]
            torch.testing.assert_close(
                value, expected, rtol=0, atol=atol, msg=f"{key}/{name}, step {step}"
            )


@pytest.mark.archive("awgim.adamw")
def test_clip_and_decay_that_the_rate_does_not_scale(archive: Archive) -> None:
    decay, rate, every, limit = archive.array("cfg/wd_lr_every_thr").tolist()
    factor = float(archive["lr"].min() / archive["lr"].max()) ** (
        1 / ((len(archive["lr"]) - 1) // every)
    )
    schedule = StaircaseSchedule(rate, round(factor, 4), int(every))
    module = Parameters(archive)
    groups = parameter_groups(module, decay, decay_all=True)
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=BETAS)
    for step in range(module.steps):
        assert schedule(step) == pytest.approx(float(archive["lr"][step]), rel=1e-6)
        module.set_gradients(step)
        clip_value_then_norm_(module.parameters(), limit)
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        module.check("clipped_grad", step, gradients, 1e-7)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
            group["weight_decay"] = unscaled_decay(decay, schedule(step))
            group["eps"] = outer_epsilon(1e-8, BETAS[1], step)
        optimizer.step()
        module.check("param_after_each_step", step, dict(module.state_dict()), 2e-6)


@pytest.mark.archive("ctx.normalised_adam")
def test_normalised_gradient_and_adam_with_outer_epsilon(archive: Archive) -> None:
    rate, every, factor, epsilon = archive.array("cfg/lr_every_rate_eps").tolist()
    schedule = StaircaseSchedule(rate, factor, int(every))
    module = Parameters(archive)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, betas=BETAS, weight_decay=0.0)
    for step in range(module.steps):
        assert schedule(step) == pytest.approx(float(archive["lr"][step]), rel=1e-6)
        module.set_gradients(step)
        norm = normalise_gradients_(module.parameters())
        expected = archive["norm"][step]  # the archive's is after the floor
        torch.testing.assert_close(norm.clamp_min(1e-5**0.5), expected, rtol=1e-5, atol=0)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
            group["eps"] = outer_epsilon(epsilon, BETAS[1], step)
        optimizer.step()
        module.check("param_after_each_step", step, dict(module.state_dict()), 2e-6)
