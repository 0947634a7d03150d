"""Schedules, momentum update and clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fsl.momentum import ema_update_
from fsl.optimization import clip_per_parameter_
from fsl.schedules import CosineSchedule, TeacherTemperature

if TYPE_CHECKING:
    Archive = Any


@pytest.mark.parametrize("case", [0, 1, 2])
@pytest.mark.archive("smkd.schedules")
def test_cosine_schedules(archive: Archive, case: int) -> None:
    base, final, epochs, steps, warmup = archive.array(f"case{case}_args").tolist()
    schedule = CosineSchedule(base, final, int(epochs * steps), int(warmup * steps))
    values = [schedule(step) for step in range(int(epochs * steps))]
    np.testing.assert_allclose(values, archive.array(f"case{case}_values"), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "schedule"),
    [
        ("temp_cls_warm30_ep100", TeacherTemperature(0.04, 0.07, 30)),
        ("temp_patch_warm30_ep100", TeacherTemperature(0.04, 0.07, 30)),
        ("temp_patch_warm30_start50_ep100", TeacherTemperature(0.04, 0.07, 30, 50)),
    ],
)
@pytest.mark.archive("smkd.schedules")
def test_teacher_temperatures(archive: Archive, key: str, schedule: TeacherTemperature) -> None:
    values = [schedule(epoch, 100) for epoch in range(100)]
    np.testing.assert_allclose(values, archive.array(key), rtol=0, atol=1e-12)


@pytest.mark.archive("smkd.schedules")
def test_constant_teacher_temperature(archive: Archive) -> None:
    expected = archive.array("temp_cls_const_ep100")
    schedule = TeacherTemperature(float(expected[0]), float(expected[-1]), 0)
    values = [schedule(epoch, 100) for epoch in range(100)]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


@pytest.mark.archive("smkd.schedules")
def test_three_momentum_updates(archive: Archive) -> None:
    teacher = archive["ema_teacher0"].clone()
    for step, momentum in enumerate(archive.array("ema_m").tolist()):
        ema_update_([teacher], [archive[f"ema_student{step}"]], momentum)
    # The archive's teacher1 and teacher2 are aliases of the final state: only the end compares.
    torch.testing.assert_close(teacher, archive["ema_teacher3"], rtol=0, atol=1e-6)


@pytest.mark.archive("smkd.schedules")
def test_clipping_of_each_parameter(archive: Archive) -> None:
    parameters = {}
    for name, gradient in archive.under("clip_in/").items():
        parameters[name] = torch.zeros_like(gradient, requires_grad=True)
        parameters[name].grad = gradient.clone()
    norms = clip_per_parameter_(parameters.values(), archive.number("clip_value"))
    expected = archive["clip_norms"].to(norms.dtype)
    torch.testing.assert_close(norms, expected, rtol=1e-6, atol=1e-6)
    for name, gradient in archive.under("clip_out/").items():
        torch.testing.assert_close(parameters[name].grad, gradient, rtol=0, atol=1e-6)
