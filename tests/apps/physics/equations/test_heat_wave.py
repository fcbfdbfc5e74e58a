"""Heat and waves are their closed forms; the undamped wave keeps its energy; py-pde finds the same heat."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.physics.equations.heat_wave import Modes, heat_weights, wave_energy, wave_weights
from farfield.apps.training import UserError
from tests.apps.physics.small import solve

LENGTH = [1.0, 2.0]


def test_heat_of_one_mode_decays_as_it_must() -> None:
    case = solve("heat", length=LENGTH, cells=[30, 44], initial="mode", modes=3, amplitude=1.5, boundary_value=2.0)
    x, y = case.nodes.T
    rate = 0.1 * np.pi**2 * 9 * (1 + 1 / 4)
    expected = 2 + 1.5 * np.sin(3 * np.pi * x) * np.sin(1.5 * np.pi * y) * np.exp(-rate * case.times)[:, None]
    assert np.abs(case.read("u")[..., 0] - expected).max() < 1e-12
    assert np.ptp(expected) > 2


def test_insulated_heat_keeps_its_mean() -> None:
    case = solve("heat", cells=[24, 24], boundary="insulated", initial="random", duration=0.5)
    weights = np.ones((25, 25))
    for end in (0, -1):
        weights[end] /= 2
        weights[:, end] /= 2
    mean = (case.read("u")[..., 0].reshape(-1, 25, 25) * weights).sum(axis=(1, 2)) / 24**2
    assert np.abs(mean - mean[0]).max() < 1e-13
    case = solve("heat", cells=[24, 24], boundary="insulated", initial="mode", modes=2, diffusivity=0.2)
    x, y = case.nodes.T
    expected = np.cos(2 * np.pi * x) * np.cos(2 * np.pi * y) * np.exp(-0.2 * 8 * np.pi**2 * case.times)[:, None]
    assert np.abs(case.read("u")[..., 0] - expected).max() < 1e-12


@pytest.mark.parametrize("frequency", [0.0, 3.0])
def test_forced_heat_obeys_its_equation(frequency: float) -> None:
    case = solve(
        "heat",
        cells=[16, 16],
        initial="mode",
        modes=1,
        amplitude=0.0,
        forcing=5.0,
        forcing_mode=2,
        forcing_frequency=frequency,
    )
    x, y = case.nodes.T
    t, shape = case.times, np.sin(2 * np.pi * x) * np.sin(2 * np.pi * y)
    rate, w = 0.1 * 8 * np.pi**2, 2 * np.pi * frequency
    # The solution of c' = -rate c + 5 cos(w t), c(0) = 0.
    c = 5 * (rate * np.cos(w * t) + w * np.sin(w * t) - rate * np.exp(-rate * t)) / (rate**2 + w**2)
    assert np.abs(case.read("u")[..., 0] - c[:, None] * shape).max() < 1e-12
    assert np.abs(case.read("forcing")[..., 0] - 5 * np.cos(w * t)[:, None] * shape).max() < 1e-13
    assert case.fields["forcing"].units == "K s-1"


def test_a_slow_mode_loses_no_digits() -> None:
    for rate in (0.0, 1e-12, 1e-3):
        found = heat_weights(np.array(0.0), np.array(1.0), np.array(rate), 0.0, 2.0)
        assert abs(found - (2 - 2 * rate + 4 / 3 * rate**2)) < rate**3 + 1e-15


@pytest.mark.parametrize("damping", [0.0, 0.7, 2 * np.pi * np.sqrt(2), 60.0])
def test_wave_of_one_mode_is_a_damped_oscillator(damping: float) -> None:
    """Below, near, at and above critical damping, against a matrix exponential."""
    from scipy.linalg import expm

    case = solve("wave", cells=[12, 12], initial="mode", modes=1, damping=damping, frames=7)
    shape = case.read("u")[0, :, 0]
    square = 2 * np.pi**2
    for i, t in enumerate(case.times):
        u, v = expm(np.array([[0, 1], [-square, -damping]]) * t) @ [1, 0]
        assert np.abs(case.read("u")[i, :, 0] - u * shape).max() < 1e-11
        assert np.abs(case.read("v")[i, :, 0] - v * shape).max() < 1e-10
    assert np.abs(shape).max() == pytest.approx(1)


@pytest.mark.parametrize(("damping", "frequency"), [(0.0, 0.0), (0.5, 0.0), (0.5, 1.7), (0.0, 1.7)])
def test_forced_wave_obeys_its_equation(damping: float, frequency: float) -> None:
    from scipy.linalg import expm

    square, w = np.array([30.0]), 2 * np.pi * frequency
    # The forcing as two more unknowns, cos and sin of w t.
    system = np.array([[0, 1, 0, 0], [-30, -damping, 4, 0], [0, 0, 0, -w], [0, 0, w, 0]])
    for t in (0.0, 0.3, 2.0, 11.0):
        u, v = wave_weights(np.array([0.2]), np.array([-0.1]), np.array([4.0]), square, damping, frequency, t)
        assert np.allclose([u[0], v[0]], (expm(system * t) @ [0.2, -0.1, 1, 0])[:2], rtol=0, atol=1e-11)


def test_an_undamped_wave_keeps_its_energy_over_ten_thousand_steps() -> None:
    case = solve("wave", cells=[16, 16], damping=0.0, initial="random", duration=100.0, frames=10_001)
    modes = Modes((1.0, 1.0), (16, 16), "fixed")
    u, v = (case.read(name)[..., 0] for name in "uv")
    energy = wave_energy(modes, u, v, 1.0)
    assert energy[0] > 0.1
    assert np.abs(energy / energy[0] - 1).max() < 1e-10
    assert case.results["energy_drift"].value < 1e-10
    assert np.abs(u[5000] - u[0]).max() > 0.1, "the wave moves"


def test_energy_is_the_integral_that_it_says() -> None:
    modes = Modes((1.0, 2.0), (20, 30), "fixed")
    x, y = np.meshgrid(np.linspace(0, 1, 21), np.linspace(0, 2, 31), indexing="ij")
    u, v = np.sin(np.pi * x) * np.sin(np.pi * y), 3 * np.sin(2 * np.pi * x) * np.sin(np.pi * y / 2)
    # Half of the integrals of v^2 (9/2 over an area of 2) and 4 |grad u|^2.
    expected = 0.5 * (9 * 2 / 4 + 4 * 2 * np.pi**2 * 2 / 4)
    assert wave_energy(modes, u.ravel(), v.ravel(), 2.0) == pytest.approx(expected, rel=1e-13)


def test_damping_takes_energy_away() -> None:
    case = solve("wave", cells=[16, 16], damping=1.0, frames=21)
    energy = wave_energy(Modes((1.0, 1.0), (16, 16), "fixed"), *(case.read(n)[..., 0] for n in "uv"), 1.0)
    assert (np.diff(energy) < 0).all()


def test_resonance_without_damping_is_refused() -> None:
    frequency = np.sqrt(2) / 2
    with pytest.raises(UserError, match="grow without bound"):
        solve("wave", damping=0.0, forcing=1.0, forcing_frequency=frequency)
    assert np.isfinite(
        solve("wave", cells=[8, 8], damping=0.1, forcing=1.0, forcing_frequency=frequency).read("u")
    ).all()


def test_py_pde_finds_the_same_heat() -> None:
    """An independent solver, second order in space: its difference falls by four when its cells halve."""
    pde = pytest.importorskip("pde")
    ours = solve("heat", cells=[64, 64], initial="mode", modes=1, amplitude=1.0, duration=0.2, frames=3)
    modes = Modes((1.0, 1.0), (64, 64), "fixed")
    weights = modes.forward(ours.read("u")[-1, :, 0])
    k = np.arange(1, 64)
    errors = []
    for n in (8, 16):
        grid = pde.CartesianGrid([[0, 1], [0, 1]], [n, n])
        x = grid.axes_coords[0]
        start = pde.ScalarField(grid, np.sin(np.pi * x)[:, None] * np.sin(np.pi * x)[None])
        equation = pde.DiffusionPDE(diffusivity=0.1, bc={"value": 0})
        theirs = equation.solve(start, t_range=0.2, solver="scipy", backend="numpy", tracker=None).data
        at = np.sin(np.pi * k[None] * x[:, None])
        errors.append(np.abs(theirs - 4 * at @ weights @ at.T).max())
    assert errors[1] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"diffusivity": -1.0}, "at least 0"),
        ({"length": [1.0]}, "list of 2 numbers"),
        ({"length": [1.0, 0.0]}, "above 0"),
        ({"cells": [64, 1.5]}, "whole number"),
        ({"frames": 1}, "from 2"),
        ({"boundary": "open"}, "fixed, insulated"),
        ({"initial": "noise"}, "random, bump, mode"),
        ({"modes": 64}, "from 1 to 63"),
        ({"duration": float("nan")}, "a number"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        solve("heat", **values)
    assert f"equation.{next(iter(values))}=" in str(error.value)
