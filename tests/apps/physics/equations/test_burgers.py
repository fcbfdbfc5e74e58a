"""Burgers is what Cole and Hopf's transformation says."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.physics.equations import burgers
from farfield.apps.training import UserError
from tests.apps.physics.small import solve


def cole_hopf(t: float, nu: float, n: int = 2048) -> np.ndarray:
    """u_0 = sin(2 pi x) on [0, 1): -2 nu phi_x / phi of a heat solution, by a Fourier series."""
    x = np.arange(n) / n
    start = np.exp(-(1 - np.cos(2 * np.pi * x)) / (4 * np.pi * nu))
    k = 2 * np.pi * np.fft.rfftfreq(n, 1 / n)
    weights = np.fft.rfft(start) * np.exp(-nu * k**2 * t)
    return np.asarray(-2 * nu * np.fft.irfft(1j * k * weights, n) / np.fft.irfft(weights, n))


def test_a_sine_steepens_as_cole_and_hopf_say() -> None:
    case = solve("burgers", cells=512, viscosity=0.01, initial="sine", modes=1, duration=0.5, frames=3)
    for i in (1, 2):
        expected = cole_hopf(float(case.times[i]), 0.01)[::4]
        assert np.abs(case.read("u")[i, :, 0] - expected).max() < 1e-7
    assert np.abs(np.gradient(expected, 1 / 512)).max() > 10, "there is a shock"
    assert case.period == (1.0,)
    assert list(case.cells) == ["line"]


def test_the_error_falls_with_the_fourth_power_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []
    for cfl in (0.8, 0.4):
        monkeypatch.setattr(burgers, "CFL", cfl)
        case = solve("burgers", cells=128, viscosity=0.05, initial="sine", modes=1, duration=0.3, frames=2)
        errors.append(np.abs(case.read("u")[-1, :, 0] - cole_hopf(0.3, 0.05)[::16]).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.5)


def test_momentum_is_kept_and_a_force_adds_none() -> None:
    case = solve("burgers", cells=128, viscosity=0.02, forcing=1.0, frames=5)
    mean = case.read("u").mean(axis=(1, 2))
    assert np.abs(mean - mean[0]).max() < 1e-12
    assert case.read("forcing").shape == case.read("u").shape


def test_shocks_below_the_grid_are_refused() -> None:
    with pytest.raises(UserError, match="thinner than the grid resolves"):
        solve("burgers", cells=64, viscosity=1e-4, initial="sine", modes=1)
