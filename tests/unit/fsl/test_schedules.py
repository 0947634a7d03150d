"""Schedules at their edges; see tests/parity for the published values."""

from __future__ import annotations

import pytest

from fsl.schedules import CosineSchedule, StaircaseSchedule, TeacherTemperature


def test_warm_up_starts_at_zero_and_reaches_the_peak_twice() -> None:
    schedule = CosineSchedule(2.0, 1.0, 20, 5)
    assert schedule(0) == 0.0
    assert schedule(4) == 2.0
    assert schedule(5) == 2.0
    assert schedule(6) < 2.0


def test_the_final_value_comes_after_the_last_step() -> None:
    schedule = CosineSchedule(1.0, 0.25, 10)
    assert schedule(0) == 1.0
    assert schedule(9) > 0.25
    assert schedule(10) == schedule(11) == 0.25


@pytest.mark.parametrize("warmup", [0, 1, 10, 50])
def test_any_warm_up_gives_values_within_the_limits(warmup: int) -> None:
    schedule = CosineSchedule(1.0, 0.1, 10, warmup)
    values = [schedule(step) for step in range(10)]
    assert all(0.0 <= value <= 1.0 for value in values)


@pytest.mark.parametrize("epochs", [1, 2, 5, 29])
def test_temperature_warm_up_is_shortened_to_the_run(epochs: int) -> None:
    schedule = TeacherTemperature(0.04, 0.07, 30)
    values = [schedule(epoch, epochs) for epoch in range(epochs)]
    assert values[0] == 0.04
    assert values == sorted(values)
    if epochs > 1:
        assert values[-1] == 0.07


@pytest.mark.parametrize("warmup", [0, 1, 2, 10])
@pytest.mark.parametrize("delay", [0, 3])
def test_no_warm_up_goes_beyond_the_final_temperature(warmup: int, delay: int) -> None:
    schedule = TeacherTemperature(0.04, 0.07, warmup, delay)
    values = [schedule(epoch, 20) for epoch in range(20)]
    assert values == sorted(values)
    assert values[delay + warmup :] == [0.07] * (20 - delay - warmup)
    assert (values[delay] == 0.04) is (warmup > 0)


def test_without_warm_up_the_final_temperature_holds_from_the_start() -> None:
    assert TeacherTemperature(0.04, 0.07, 0)(0, 100) == 0.07


def test_delayed_warm_up_waits() -> None:
    schedule = TeacherTemperature(0.04, 0.07, 4, delay=2)
    assert [schedule(epoch, 10) for epoch in (0, 1, 2)] == [0.04] * 3
    assert schedule(5, 10) == 0.07


def test_a_delay_beyond_the_run_keeps_the_first_temperature() -> None:
    schedule = TeacherTemperature(0.04, 0.07, 4, delay=20)
    assert schedule(9, 10) == 0.04


def test_staircase_falls_after_every_so_many_steps() -> None:
    schedule = StaircaseSchedule(1.0, 0.5, 3)
    assert [schedule(step) for step in range(7)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
