"""Navier-Stokes is Taylor and Green's vortex, still or carried along; energy leaves as viscosity says."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.physics.equations import navier_stokes
from farfield.apps.training import UserError
from tests.apps.physics.small import solve


def vortex(case: object, mean: tuple[float, float], nu: float, modes: int, rho: float) -> list[float]:
    """Greatest error of velocity, pressure and vorticity against the closed form."""
    k, worst = 2 * np.pi * modes, [0.0, 0.0, 0.0]
    for i, t in enumerate(case.times):  # type: ignore[attr-defined]
        x, y = case.nodes.T - np.array(mean)[:, None] * t  # type: ignore[attr-defined]
        a = np.sqrt(2) * np.exp(-2 * nu * k**2 * t)
        u = np.stack([a * np.sin(k * x) * np.cos(k * y) + mean[0], mean[1] - a * np.cos(k * x) * np.sin(k * y)], axis=1)
        p = rho * a**2 / 4 * (np.cos(2 * k * x) + np.cos(2 * k * y))
        w = 2 * k * a * np.sin(k * x) * np.sin(k * y)
        for j, (name, e) in enumerate((("u", u), ("p", p[:, None]), ("vorticity", w[:, None]))):
            worst[j] = max(worst[j], float(np.abs(case.read(name, i, i + 1)[0] - e).max()))  # type: ignore[attr-defined]
    return worst


def test_a_still_vortex_decays_exactly() -> None:
    values = {"cells": 24, "viscosity": 0.01, "density": 2.0, "initial": "taylor-green", "modes": 2, "speed": 1.0}
    case = solve("navier-stokes", duration=0.5, frames=6, **values)
    u, p, w = vortex(case, (0.0, 0.0), 0.01, 2, 2.0)
    assert u < 1e-12
    assert p < 1e-12
    assert w < 1e-10
    assert np.abs(case.read("u")).max() > 1


def test_a_vortex_that_is_carried_along_converges_with_the_fourth_power_of_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = []
    for cfl in (0.5, 0.25):
        monkeypatch.setattr(navier_stokes, "CFL", cfl)
        values = {"cells": 24, "viscosity": 1e-3, "initial": "taylor-green", "modes": 1, "speed": 1.0}
        case = solve("navier-stokes", duration=0.5, frames=3, mean_flow=[0.7, -0.3], **values)
        errors.append(vortex(case, (0.7, -0.3), 1e-3, 1, 1.0)[0])
    assert errors[0] < 1e-4
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.4)


def test_energy_leaves_as_viscosity_and_drag_say() -> None:
    """dE/dt = -nu <w^2> - 2 a E, in differences of neighbouring frames."""
    case = solve("navier-stokes", cells=48, viscosity=2e-3, drag=0.3, duration=0.2, frames=81)
    energy = 0.5 * (case.read("u") ** 2).sum(axis=2).mean(axis=1)
    enstrophy = (case.read("vorticity")[..., 0] ** 2).mean(axis=1)
    rate = (energy[2:] - energy[:-2]) / (case.times[2:] - case.times[:-2])
    assert np.abs(rate / (-2e-3 * enstrophy - 2 * 0.3 * energy)[1:-1] - 1).max() < 1e-3
    assert energy[0] == pytest.approx(0.125)


def test_a_forced_shear_flow_reaches_its_laminar_profile() -> None:
    values = {"cells": 16, "viscosity": 0.05, "speed": 0.0, "forcing": 0.5, "forcing_mode": 1, "modes": 1}
    case = solve("navier-stokes", duration=6.0, frames=3, **values)
    profile = 0.5 / (0.05 * 4 * np.pi**2) * np.sin(2 * np.pi * case.nodes[:, 1])
    assert np.abs(case.read("u")[-1, :, 0] - profile * (1 - np.exp(-0.05 * 4 * np.pi**2 * 6))).max() < 1e-7
    assert case.fields["forcing"].components == 2


def test_the_flow_is_free_of_divergence_and_its_axes_wrap_around() -> None:
    case = solve("navier-stokes", cells=32, viscosity=0.01, duration=0.2, frames=3)
    u, v = (np.fft.fft2(case.read("u")[-1, :, c].reshape(32, 32)) for c in range(2))
    k = np.fft.fftfreq(32, 1 / 32)
    assert np.abs(k[:, None] * u + k[None] * v).max() < 1e-10
    assert case.period == (1.0, 1.0)
    assert case.nodes.max() < 1


def test_eddies_below_the_grid_are_refused() -> None:
    with pytest.raises(UserError, match="smaller than the grid resolves"):
        solve("navier-stokes", cells=24, viscosity=1e-6, speed=1.0, initial="shear", modes=2, duration=3.0, frames=4)


def test_a_finer_grid_starts_from_the_same_eddies() -> None:
    coarse, fine = (solve("navier-stokes", cells=n, duration=0.5, frames=3).read("u") for n in (64, 128))
    same = fine.reshape(3, 128, 128, 2)[:, ::2, ::2].reshape(coarse.shape)
    assert np.abs(coarse - same)[0].max() < 1e-13
    assert np.linalg.norm(coarse - same) / np.linalg.norm(same) < 2e-3
