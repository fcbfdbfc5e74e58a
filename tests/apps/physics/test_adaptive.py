"""Adapted partitions are taken where they pay, and only there."""

from __future__ import annotations

from dataclasses import replace

import torch

from farfield.apps.physics.adaptive import pays
from farfield.apps.physics.clock import Clock, clock_of, curve_error
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.train import settings_of
from tests.apps.physics.surrogates import MODEL, heat_cases


def test_what_is_exact_enough_stays_even() -> None:
    assert pays(0.5e-3, 1e-3)
    assert not pays(0.9e-3, 1e-3)
    assert not pays(0.0, 1e-6)


def test_steps_are_adapted_only_where_the_curves_gain() -> None:
    runs = Runs.of(heat_cases(2, frames=33))
    model = settings_of(MODEL | {"adapt_time": True, "stride": 8}, "model/graphspline")
    # All happens at once, early: even intervals of eight frames miss it.
    sudden = torch.tanh((torch.arange(33.0) - 3) * 1.5)[None, :, None, None].expand_as(runs.values).clone()
    clock = clock_of(replace(runs, values=sudden), model)
    even = Clock(runs.times, tuple(range(0, 33, 8)), int(model["order_time"]), True)
    assert not clock.even
    assert clock.knots[1] < 8
    assert curve_error(clock, replace(runs, values=sudden)) < 0.8 * curve_error(even, replace(runs, values=sudden))
    # A straight line is the same on any intervals.
    slow = torch.arange(33.0)[None, :, None, None].expand_as(runs.values).clone()
    assert clock_of(replace(runs, values=slow), model).even
