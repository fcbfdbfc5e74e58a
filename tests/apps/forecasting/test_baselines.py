"""Ridge is the regression it says; covariates that matter are found, others cost nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farfield.apps.forecasting.baselines import baseline_errors, fit_ridge, initialise, last_value, seasonal_naive
from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.forecasting.optimise import errors
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.forecasting.windows import Windows
from farfield.apps.training.errors import UserError


def noise(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(rows)


def test_ridge_is_the_regression_of_its_formula() -> None:
    y = noise(120, 0).cumsum()
    windows = Windows(y, 10, 4, dtype=torch.float64)
    ridge = fit_ridge(windows, windows, (3.0,))
    batch = windows.batch(slice(None))
    last = batch.y[:, -1:, 0]
    x, target = batch.y[..., 0] - last, batch.future[..., 0] - last
    x0, t0 = x - x.mean(0), target - target.mean(0)
    weight = torch.linalg.solve(x0.mT @ x0 + 3.0 * torch.eye(10, dtype=torch.float64), x0.mT @ t0)
    wanted = target.mean(0) + x0 @ weight + last
    assert torch.allclose(ridge(batch)[..., 0], wanted, atol=1e-9)
    assert ridge.mse == pytest.approx(float((wanted - batch.future[..., 0]).square().mean()), rel=1e-9)


def test_validation_chooses_the_penalty() -> None:
    train, valid = Windows(noise(60, 0), 20, 2), Windows(noise(200, 1), 20, 2)
    chosen = fit_ridge(train, valid)
    each = {p: fit_ridge(train, valid, (p,)).mse for p in (0.1, 10.0, 1e3, 1e5)}
    assert chosen.mse <= min(each.values()) + 1e-12


def test_a_planted_effect_of_covariates_is_found_and_an_irrelevant_one_left_alone() -> None:
    known = np.stack([noise(400, 1), noise(400, 2)], 1)
    base = np.zeros(400)
    for t in range(1, 400):
        base[t] = 0.8 * base[t - 1] + 0.3 * noise(400, 3)[t]
    matters = base + known @ np.array([1.5, -0.7])

    def fitted(y: np.ndarray, with_known: bool) -> float:
        k = known if with_known else None
        rows = (slice(0, 250), slice(226, 330), slice(306, 400))
        parts = [Windows(y[r], 24, 6, known=None if k is None else k[r]) for r in rows]
        return baseline_errors(fit_ridge(parts[0], parts[1]), parts[2])[0]

    assert fitted(matters, True) < 0.4 * fitted(matters, False)
    assert fitted(base, True) < 1.02 * fitted(base, False)
    windows = Windows(matters, 24, 6, known=known)
    effect = fit_ridge(windows, windows).effect
    assert effect is not None
    assert torch.allclose(effect, torch.tensor([[1.5, -0.7]], dtype=torch.float64), atol=0.1)


def test_an_initialised_network_forecasts_as_ridge_does() -> None:
    y, known = np.stack([noise(300, 0).cumsum(), noise(300, 1).cumsum()], 1), noise(300, 2)
    y = y + known[:, None]
    y[50:53, 0] = np.nan
    windows = Windows(y, 12, 5, known=known)
    config = SpaceTimeConfig(
        lag=12, horizon=5, targets=2, known=1, model_dim=8, kernel_dim=4, n_kernels=2, max_average=9, linear_skip=True
    )
    net = SpaceTime.seeded(config, 0).eval()
    ridge = initialise(net, windows, windows)
    whole = windows.batch(torch.arange(100, 200))
    said = net(whole.y, whole.known, whole.past, whole.observed).detach()
    assert torch.allclose(said, ridge(whole), atol=1e-4)
    assert errors(net, windows)[0] == pytest.approx(ridge.mse, rel=0.02)
    with pytest.raises(UserError, match="linear_skip=True"):
        initialise(SpaceTime.seeded(SpaceTimeConfig(lag=12, horizon=5, model_dim=8, n_kernels=2), 0), windows, windows)


def test_naive_forecasts_repeat() -> None:
    windows = Windows(np.arange(30.0), 6, 5)
    batch = windows.batch(slice(0, 1))
    assert last_value(batch)[0, :, 0].tolist() == [5] * 5
    assert seasonal_naive(3)(batch)[0, :, 0].tolist() == [3, 4, 5, 3, 4]
    with pytest.raises(UserError, match="season=7"):
        seasonal_naive(7)(batch)
    gappy = np.arange(30.0)
    gappy[5] = np.nan
    assert last_value(Windows(gappy, 6, 5).batch(slice(0, 1)))[0, :, 0].tolist() == [4] * 5
