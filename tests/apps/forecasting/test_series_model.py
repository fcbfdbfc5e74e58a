"""The model of one series: what it recovers, what it survives, and that reading equals fitting again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farfield.apps.forecasting.bank import Smoothers, ar_taps, difference_operator, smooth, smoothing_grid
from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.forecasting.network import Examples, Network, judged
from farfield.apps.forecasting.panel import pretrain_network
from farfield.apps.forecasting.series import Plan, SeriesModel
from farfield.apps.forecasting.sizes import lag_of, season_of
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.forecasting.stack import poles_of, run_bank, weigh
from farfield.apps.forecasting.stream import Stream
from farfield.apps.training.errors import UserError

SMALL = {"model_dim": 4, "kernel_dim": 4, "n_kernels": 2, "dropout": 0.0}


def seasonal(n: int, noise: float = 0.1, seed: int = 0) -> np.ndarray:
    t = np.arange(n)
    return 20 + 0.1 * t + 3 * np.sin(2 * np.pi * t / 12) + noise * np.random.default_rng(seed).standard_normal(n)


def quick(horizon: int = 6, season: int = 12, **settings: object) -> Plan:
    return Plan(horizon=horizon, season=season, **{"use_network": False, **settings})


def test_a_season_with_a_trend_is_continued():
    model = SeriesModel.fit(seasonal(120), None, quick())
    assert np.abs(model.forecast(24) - seasonal(144, 0.0)[120:]).max() < 0.6


def test_a_planted_autoregression_is_recovered():
    random = np.random.default_rng(0)
    y = np.zeros(3000)
    for t in range(2, 3000):
        y[t] = 1.5 * y[t - 1] - 0.8 * y[t - 2] + random.standard_normal()
    taps = ar_taps(y, np.zeros(3000, bool), (0, 0), (1, 2), 1, np.array([2999]))
    np.testing.assert_allclose(taps[0, :2], [1.5, -0.8], atol=0.05)


def test_taps_of_a_differenced_regression_are_those_of_the_series():
    operator = difference_operator((1, 1), 4)
    np.testing.assert_array_equal(operator, [1, -1, 0, 0, -1, 1])
    y = np.cumsum(np.random.default_rng(0).standard_normal(300))
    taps = ar_taps(y, np.zeros(300, bool), (1, 1), (1,), 4, np.array([299]))[0]
    d = np.convolve(y, operator, "valid")
    phi = np.roots([1]) if not len(d) else (d[-1] * 0 + taps[0] - 1)
    expected = y[-1] + y[-4] - y[-5] + phi * d[-1] + taps[-1]
    assert abs(taps[:-1] @ y[::-1][: len(taps) - 1] - expected + taps[-1]) < 1e-9


def test_forecasts_at_an_origin_ignore_the_future():
    y = seasonal(150, 1.0)
    origins = np.array([60, 80, 100, 149])
    other = y.copy()
    other[101:] += 50 * np.random.default_rng(1).standard_normal(49)
    one, two = run_bank(y, 12, 6, origins), run_bank(other, 12, 6, origins)
    np.testing.assert_array_equal(one.forecasts[:3, : one.forecasts.shape[1]], two.forecasts[:3])
    assert np.abs(one.forecasts[3] - two.forecasts[3]).max() > 0.1


def test_weights_are_a_mixture():
    stack, trial = weigh(run_bank(seasonal(100), 12, 6))
    assert abs(stack.weights.sum() - 1) < 1e-12
    assert (stack.weights > 0).all()
    assert trial.cut < len(trial.origins)
    assert all(len(a) for a in poles_of(stack))


def test_reading_moves_the_states_as_a_pass_over_all_values_does():
    y = seasonal(140, 0.5)
    gains = smoothing_grid(12)
    whole = Smoothers.begin(y, 12, gains)
    smooth(y, whole, np.array([], dtype=np.int64), 1)
    parts = Smoothers.begin(y, 12, gains)
    for value in y:
        parts.read(value)
    np.testing.assert_array_equal(whole.level, parts.level)
    model = SeriesModel.fit(y[:120], None, quick())
    twin = model.copy()
    for value in y[120:]:
        model.read(value)
    assert np.abs(model.forecast(12) - seasonal(152, 0.0)[140:]).max() < 1.5
    np.testing.assert_array_equal(twin.forecast(6), SeriesModel.fit(y[:120], None, quick()).forecast(6))


def test_missing_values_are_passed_over():
    y = seasonal(150)
    y[[3, 40, 41, 42, 100, 149]] = np.nan
    model = SeriesModel.fit(y, None, quick())
    truth = seasonal(170, 0.0)
    assert np.abs(model.forecast(6) - truth[150:156]).max() < 1.0
    for _ in range(3):
        model.read(np.nan)
    assert np.abs(model.forecast(6) - truth[153:159]).max() < 1.0


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 25])
def test_any_length_is_forecast(n):
    model = SeriesModel.fit(seasonal(n), None, Plan(horizon=4, season=max(1, min(12, n // 2)), sizes=SMALL, epochs=1))
    said = model.forecast(9)
    assert np.isfinite(said).all()
    below, above = model.forecast_intervals(9, None, np.array([0.1, 0.5]))
    assert (below <= said[:, None]).all()
    assert (above >= said[:, None]).all()


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e9])
def test_a_constant_series_is_repeated(value):
    model = SeriesModel.fit(np.full(60, value), None, quick())
    np.testing.assert_allclose(model.forecast(8), value, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits():
    y = seasonal(150, 1.0)
    plan = Plan(horizon=4, season=12, sizes={**SMALL, "dropout": 0.2}, epochs=2, seed=3)
    one, two = (SeriesModel.fit(y, None, plan) for _ in range(2))
    np.testing.assert_array_equal(one.forecast(8), two.forecast(8))


def test_the_network_reads_value_by_value_what_a_window_holds():
    y = seasonal(80, 0.3)
    model = SeriesModel.fit(y[:60], None, Plan(horizon=4, season=12, lag=12, use_network=False))
    net = SpaceTime.seeded(SpaceTimeConfig(lag=12, horizon=4, linear_skip=True, transform="last", **SMALL), 0).eval()
    torch.nn.init.normal_(net.output.linear.weight)
    model.network = Network(net, 1.0)
    z = model.scale.forward(y)
    model.stream = Stream.begin(net, z[48:60], np.zeros((12, 0)))
    twin = model.copy()
    for t in range(60, 80):
        model.read(y[t], adapt=t % 6 == 0)
        state = model.stream.state
        if t not in (60, 66, 71, 72, 79):
            continue
        # A window that goes back to the last refresh, measured against the level of that time.
        seen = torch.from_numpy(z[t - 11 - state.fresh : t + 1].astype(np.float32))[None, :, None]
        with torch.no_grad():
            direct = net(seen, against=state.level)[0, :, 0].double().numpy()
        np.testing.assert_allclose(model.forecast(4), model.scale.backward(direct), rtol=1e-4)
    assert state.fresh == 20 % 12
    np.testing.assert_array_equal(twin.stream.forecast(4, None), twin.copy().stream.forecast(4, None))
    assert twin.stream.state.seen == 12


def test_a_planted_covariate_is_found_and_an_irrelevant_one_dropped():
    random = np.random.default_rng(0)
    x = random.standard_normal((150, 2))
    y = seasonal(150, 0.5) + 4 * x[:, 0]
    model = SeriesModel.fit(y[:138], x[:138], quick(12))
    assert model.effect.beta[1] == 0
    np.testing.assert_allclose(model.effect.beta[0] * model.scale.spread / model.effect.spread[0], 4, rtol=0.1)
    with_x = np.abs(model.forecast(12, x[138:]) - y[138:]).mean()
    without = np.abs(SeriesModel.fit(y[:138], None, quick(12)).forecast(12) - y[138:]).mean()
    assert with_x < 0.5 * without
    with pytest.raises(UserError, match="fitted with 2 covariates"):
        model.forecast(12)


def test_a_growing_season_is_modelled_in_logarithms():
    t = np.arange(144)
    y = np.exp(0.02 * t + 0.4 * np.sin(2 * np.pi * t / 12) + 0.02 * np.random.default_rng(0).standard_normal(144))
    model = SeriesModel.fit(y, None, quick(12))
    assert model.scale.logarithm
    assert not SeriesModel.fit(y - 5, None, quick(12)).scale.logarithm
    with pytest.raises(UserError, match="only those above 0"):
        SeriesModel.fit(y - 5, None, quick(12, logarithm=True))


@pytest.mark.parametrize(
    "wrong",
    [{"horizon": 0}, {"season": 0}, {"lag": 0}, {"lag": 2.5}, {"epochs": -1}, {"seed": -1}, {"logarithm": "perhaps"}],
)
def test_a_plan_that_nothing_can_follow_is_refused(wrong):
    with pytest.raises(UserError, match="accepted"):
        Plan(**{"horizon": 3, **wrong})


def test_a_network_of_a_panel_is_used_without_training():
    panel = [seasonal(n, 0.3, n) for n in (40, 50, 60)]
    net = pretrain_network(panel, None, Plan(horizon=4, season=12, sizes=SMALL, epochs=1, lag=12))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    model = SeriesModel.fit(seasonal(40, 0.3, 9), None, Plan(horizon=4, season=12), net)
    assert all((before[k] == v).all() for k, v in net.state_dict().items())
    assert model.network is None or model.network.net is net
    assert np.abs(model.forecast(4) - seasonal(44, 0.0)[40:]).max() < 3
    empty = Examples(np.zeros((0, 12)), np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0, np.int64), None)
    assert judged(net, empty, np.zeros(0, np.int64), prior=0.5).strength == 0.5
    assert judged(net, empty, np.zeros(0, np.int64)) is None


@pytest.mark.parametrize(
    ("frequency", "season"),
    [
        *(("MS", 12), ("M", 12), ("QE-DEC", 4), ("h", 24), ("30min", 48), ("15min", 96), ("D", 7), ("B", 5)),
        *(("W-SUN", 52), ("YS-JAN", 1), ("2MS", 6), ("2h", 12), ("7h", 1), ("min", 60)),
    ],
)
def test_the_period_follows_from_the_frequency(frequency, season):
    assert season_of(frequency, np.zeros(1000)) == season
    assert season_of(frequency, np.zeros(season + 1)) == 1 or season == 1


def test_the_period_is_found_without_a_frequency():
    assert season_of(None, seasonal(200, 0.5)) == 12
    assert season_of(None, np.random.default_rng(0).standard_normal(200)) == 1
    assert season_of(None, np.ones(200)) == 1


def test_a_lag_fits_its_series():
    assert all(1 <= lag_of(n, m, h) <= max(1, n // 3) for n in (1, 5, 50, 500) for m in (1, 12) for h in (1, 24))
