"""Training: the same bits for a seed, selected on validation, a planted recurrence found."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from farfield.apps.forecasting.baselines import initialise
from farfield.apps.forecasting.blocks import ClosedLoop
from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.forecasting.optimise import Epoch, History, errors, train
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.forecasting.windows import Windows
from farfield.apps.training.errors import UserError
from farfield.core_ops.companion_ssm import companion_kernel

CONFIG: dict[str, Any] = {
    "lag": 24,
    "horizon": 8,
    "model_dim": 8,
    "kernel_dim": 6,
    "n_kernels": 2,
    "max_average": 12,
}


def wave(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(rows)
    return np.sin(2 * np.pi * t / 12) + 0.5 * np.sin(2 * np.pi * t / 31) + 0.05 * rng.standard_normal(rows)


def trained(**settings: Any) -> tuple[SpaceTime, History]:
    net = SpaceTime.seeded(SpaceTimeConfig(**CONFIG, **settings.pop("config", {})), 0)
    windows, validation = Windows(wave(230), 24, 8), Windows(wave(80, 1), 24, 8)
    if net.config.linear_skip:
        initialise(net, windows, validation)
    wanted = {"epochs": 6, "batch_size": 70, "lr": 1e-2, "device": "cpu", **settings}
    return net, train(net, windows, validation, **wanted)


def test_a_seed_gives_the_same_bits_and_another_does_not() -> None:
    torch.manual_seed(0)
    (one, _), (two, _), (other, _) = (trained(seed=s, epochs=3) for s in (3, 3, 4))
    states = [net.state_dict() for net in (one, two, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])
    # The caller's own numbers go on as if nothing had been drawn.
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_network_ends_as_its_best_epoch(average: float) -> None:
    net, history = trained(lr=3e-2, average=average)
    assert history.mse == min(e.mse for e in history.epochs)
    assert history.mse < 0.5 * history.epochs[0].mse
    validation = Windows(wave(80, 1), 24, 8)
    assert errors(net, validation)[0] == pytest.approx(history.mse, rel=1e-6)
    assert not net.training


def test_three_terms_train_the_open_loop_in_every_epoch() -> None:
    windows = Windows(wave(230), 24, 8)
    batch = windows.batch(slice(None))

    def open_loop(net: SpaceTime) -> float:
        return float(net.eval().loss(batch, (0.0, 1.0, 0.0)).detach())

    closed_only, three = (trained(epochs=4, batch_size=30, weights=w)[0] for w in ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert open_loop(three) < 0.9 * open_loop(closed_only)
    assert open_loop(three) < 0.5 * open_loop(SpaceTime.seeded(SpaceTimeConfig(**CONFIG), 0))


def test_errors_are_the_mean_over_all_windows_whatever_the_batches() -> None:
    net, _ = trained(epochs=0)
    windows = Windows(wave(75), 24, 8)
    batch = windows.batch(slice(None))
    gap = (net(batch.y) - batch.future).detach().double()
    for size in (7, 1000):
        mse, mae = errors(net, windows, batch_size=size)
        assert mse == pytest.approx(float(gap.square().mean()), rel=1e-6)
        assert mae == pytest.approx(float(gap.abs().mean()), rel=1e-6)


def test_absent_values_do_not_count() -> None:
    y = wave(75)
    y[40:44] = np.nan
    net, _ = trained(epochs=0)
    windows = Windows(y, 24, 8)
    batch = windows.batch(slice(None))
    assert batch.future_observed is not None
    said = net(batch.y, observed=batch.observed).detach()
    gap = (said - batch.future)[batch.future_observed].double()
    assert errors(net, windows)[0] == pytest.approx(float(gap.square().mean()), rel=1e-6)


def test_patience_and_time_end_a_training() -> None:
    assert trained(epochs=50, lr=1e-9, patience=2)[1].stopped == "patience"
    assert trained(epochs=50, seconds=0.0)[1].stopped == "seconds"
    seen: list[Epoch] = []
    trained(epochs=3, on_epoch=seen.append)
    assert [e.number for e in seen] == [0, 1, 2, 3]


def test_nonsense_is_refused() -> None:
    for settings in ({"epochs": -1}, {"batch_size": 0}, {"patience": 0}):
        with pytest.raises(UserError, match=next(iter(settings))):
            trained(**settings)
    with pytest.raises(UserError, match="lower lr"):
        trained(lr=1e30)


def test_a_skip_with_rate_zero_keeps_its_ridge_weights() -> None:
    net, _ = trained(config={"linear_skip": True}, skip_lr=0.0)
    fresh, _ = trained(config={"linear_skip": True}, epochs=0)
    assert net.skip is not None
    assert fresh.skip is not None
    assert torch.equal(net.skip.weight, fresh.skip.weight)
    assert float(net.skip.weight.detach().abs().max()) > 0.01
    assert not torch.equal(net.output.linear.weight, fresh.output.linear.weight)


@pytest.mark.parametrize("system", ["companion", "shift"])
@pytest.mark.parametrize("planted", [(0.6,), (1.5, -0.8), (0.5, 0.0, -0.4, 0.3)])
def test_planted_coefficients_are_recovered(planted: tuple[float, ...], system: Literal["companion", "shift"]) -> None:
    # u_t = sum_j phi_j u_{t-j} + noise: the loop's prediction of its next input has the taps phi, then nothing.
    rng = np.random.default_rng(0)
    u = np.zeros(2000)
    for t in range(len(planted), len(u)):
        u[t] = sum(phi * u[t - j - 1] for j, phi in enumerate(planted)) + rng.standard_normal()
    z = torch.from_numpy(u).float()[None, None]
    torch.manual_seed(0)
    sizes = {"lag": 1, "horizon": 1, "model_dim": 1, "kernel_dim": 6, "n_kernels": 1}
    loop = ClosedLoop(SpaceTimeConfig(**sizes, norm_order=0, system=system))
    with torch.no_grad():
        for p in loop.parameters():
            p.mul_(0.2)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = (loop.open(z)[1][..., :-1] - z[..., 1:]).square().mean()
        torch.autograd.backward(value)
        return value

    optimiser: torch.optim.Optimizer
    if system == "shift":
        # The taps are k itself: least squares.
        optimiser = torch.optim.LBFGS(loop.parameters(), max_iter=60, line_search_fn="strong_wolfe")
        optimiser.step(loss)  # type: ignore[arg-type]
    else:
        optimiser = torch.optim.Adam(loop.parameters())
        for step in range(200):
            optimiser.param_groups[0]["lr"] = 0.04 * (1 - step / 200)
            loss()
            optimiser.step()
    a, b, _, _, k = loop.parts()
    taps = companion_kernel(a, b, k, 12)[0].detach().numpy()
    wanted = np.pad(planted, (0, 12 - len(planted)))
    # 2,000 observations leave a coefficient uncertain by 1 / sqrt(2000) = 0.022.
    assert np.abs(taps - wanted).max() < 0.08
