"""Channel flow is Poiseuille's without the cylinder, and Schaefer and Turek's with it."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.physics.equations.channel import wake
from farfield.apps.training import UserError
from tests.apps.physics.small import solve


def test_an_empty_channel_has_poiseuilles_profile() -> None:
    """Quadratic velocities hold the parabola, linear pressures its gradient: what is left is rounding and decay."""
    values = {
        "radius": 0.0,
        "triangle": 0.1,
        "triangle_at_obstacles": 0.1,
        "spin_up": 0.0,
        "duration": 4.0,
        "frames": 3,
    }
    case = solve("channel", **values, reynolds=20.0, density=2.0, perturbation=0.05)
    (x, y), u, p = case.nodes.T, case.read("u")[-1], case.read("p")[-1, :, 0]
    assert np.abs(u[:, 0] - 6 * y * (0.41 - y) / 0.41**2).max() < 1e-6
    assert np.abs(u[:, 1]).max() < 1e-6
    viscosity = case.results["viscosity"].value
    assert viscosity == pytest.approx(0.41 / 20)
    assert np.abs(p - 2 * 12 * viscosity / 0.41**2 * (2.2 - x)).max() < 1e-5
    assert np.abs(case.read("u")[0, :, 1]).max() > 1e-3, "it started perturbed"


def test_a_pulsing_inflow_comes_in_and_goes_out() -> None:
    values = {"radius": 0.0, "triangle": 0.1, "triangle_at_obstacles": 0.1, "spin_up": 0.3, "duration": 1.0}
    case = solve("channel", **values, frames=9, reynolds=20.0, perturbation=0.0, pulse=0.5, period=1.0, speed=2.0)
    inflow, unit = case.signals["inflow"]
    np.testing.assert_allclose(inflow, 2 * (1 + 0.5 * np.sin(2 * np.pi * case.times)), atol=1e-12)
    assert unit == "m s-1"
    u = case.read("u")
    for side in ("left", "right"):
        index = case.boundary[side]
        y = case.nodes[index, 1]
        order = np.argsort(y)
        profile = (6 * y * (0.41 - y) / 0.41**2)[order]
        through = np.trapezoid(u[:, index[order], 0], y[order], axis=1) / np.trapezoid(profile, y[order])
        np.testing.assert_allclose(through, inflow, rtol=1e-9 if side == "left" else 0.05)
    assert np.abs(u[2, :, 0].max() - u[6, :, 0].max()) > 1


def test_steady_flow_past_the_cylinder_has_the_drag_of_the_benchmark() -> None:
    """Schaefer and Turek's case 2D-1, Re = 20: drag 5.57 to 5.59, lift 0.0104 to 0.0110, pressure drop 0.1172 to"
    " 0.1176."""
    values = {"triangle": 0.05, "triangle_at_obstacles": 0.01, "spin_up": 5.0, "duration": 1.0, "frames": 2}
    case = solve("channel", **values, reynolds=20.0, speed=0.2, perturbation=0.0)
    p, results = case.read("p")[-1, :, 0], case.results
    front, back = (p[np.hypot(case.nodes[:, 0] - x, case.nodes[:, 1] - 0.2).argmin()] for x in (0.15, 0.25))
    assert results["drag_mean"].value == pytest.approx(5.58, rel=0.005)
    assert front - back == pytest.approx(0.1174, rel=0.01)
    assert abs(results["lift_max"].value) < 0.02
    assert results["wake_frequency"].value == 0
    assert results["viscosity"].value == pytest.approx(1e-3)
    assert set(case.boundary) == {"left", "right", "bottom", "top", "cylinder"}
    assert np.abs(case.read("u")[:, case.boundary["cylinder"]]).max() == 0
    assert case.history["drag"][0][-1] == pytest.approx(results["drag_mean"].value, rel=0.01)


def test_the_frequency_of_a_wake_is_that_of_its_lift() -> None:
    t = np.arange(0, 3, 0.01)
    found = wake(3 + 0.1 * np.cos(4 * np.pi * t), 0.2 + np.sin(2 * np.pi * 3.1 * t), 0.01)
    assert found.frequency == pytest.approx(3.1, rel=1e-3)
    assert found.drag_mean == pytest.approx(3, abs=0.01)
    assert found.lift_max == pytest.approx(1.2, abs=0.01)
    assert wake(np.full(50, 3.0), np.full(50, 0.01), 0.01).frequency == 0


def test_an_inflow_that_turns_round_is_refused() -> None:
    with pytest.raises(UserError, match=r"equation\.pulse=1\.0: below 1"):
        solve("channel", pulse=1.0)


def test_a_step_too_long_is_refused() -> None:
    values = {"triangle": 0.1, "triangle_at_obstacles": 0.03, "spin_up": 0.0, "duration": 2.0, "frames": 3}
    with pytest.raises(UserError, match=r"time_step=0\.2.*grew without bound"):
        solve("channel", **values, time_step=0.2)


@pytest.mark.slow
def test_the_wake_sheds_as_the_benchmark_says() -> None:
    """Case 2D-2, Re = 100: Strouhal number 0.295 to 0.305, greatest drag 3.22 to 3.24; a coarse mesh comes near."""
    case = solve("channel", spin_up=2.5, duration=1.0, frames=21)
    assert case.results["strouhal"].value == pytest.approx(0.300, rel=0.02)
    assert case.results["drag_max"].value == pytest.approx(3.23, rel=0.02)
