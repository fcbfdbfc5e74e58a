"""Adapted partitions are taken where they pay, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from farfield.apps.physics import places
from farfield.apps.physics.adaptive import SHARPER, denser, pays
from farfield.apps.physics.clock import Clock, clock_of, curve_error
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.train import settings_of
from tests.apps.physics.surrogates import MODEL, heat_cases
from tests.apps.physics.test_resample import meshed


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


def test_a_density_rises_where_splines_err_within_bounds() -> None:
    pairs = np.stack([np.arange(59), np.arange(1, 60)], 1)
    squares = np.where(np.abs(np.arange(60) - 20) < 5, 1.0, 1e-9)
    found = denser(np.ones(60), squares, pairs)
    assert found.mean() == pytest.approx(1)
    assert found[20] > 2.5 * found[50]
    assert found[:3].max() == pytest.approx(found[50:].max())
    for _ in range(9):
        found = denser(found, squares, pairs)
    assert found.max() < 2 * SHARPER
    np.testing.assert_allclose(denser(np.ones(60), np.zeros(60), pairs), 1)


def test_nodes_of_a_mesh_move_to_where_splines_err(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs.of([meshed(0.06)])
    x, y = torch.from_numpy(runs.nodes).T
    bump = torch.exp(-((x - 0.8) ** 2 + (y - 0.8) ** 2) / 0.15**2) + 0.1 * torch.sin(3 * x)
    sharp = replace(runs, values=bump[None, None, :, None].expand_as(runs.values).float().clone())
    model = settings_of(MODEL | {"nodes": 60, "adapt_space": True}, "model/graphspline")
    found, _ = places.places_of(sharp, model, sharp)
    monkeypatch.setattr(places, "AGAIN", 0)
    before, _ = places.places_of(sharp, model, sharp)
    errors = [float(places.spline_squares(p, sharp).sum()) for p in (found, before)]
    assert errors[0] < 0.5 * errors[1]
