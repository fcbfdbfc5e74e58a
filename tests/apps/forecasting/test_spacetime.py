"""The corrected network: its shapes, its loop, covariates, gaps, long horizons."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from farfield.apps.forecasting.spacetime import SpaceTime, SpaceTimeConfig
from farfield.apps.forecasting.windows import Batch
from farfield.apps.training.errors import UserError
from tests.apps.forecasting.networks import SHAPES, SMALL, network, series


def batch_of(net: SpaceTime, gaps: bool = False) -> Batch:
    lag, horizon = net.config.lag, net.config.horizon
    y, known, past = series(net, 4, lag + horizon, 0)
    past = None if past is None else past[:, :lag]
    if not gaps:
        return Batch(y[:, :lag], y[:, lag:], known, past, None, None)
    there = torch.rand(y.shape, generator=torch.Generator().manual_seed(5)) > 0.3
    y = y.where(there, 0.0)
    return Batch(y[:, :lag], y[:, lag:], known, past, there[:, :lag], there[:, lag:])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_forecasts_and_learns(shape: str) -> None:
    net = network(shape)
    for gaps in (False, True):
        batch = batch_of(net, gaps)
        y = net(batch.y, batch.known, batch.past, batch.observed)
        assert y.shape == batch.future.shape
        assert float(y.detach().std()) > 1e-3
        net.zero_grad()
        net.loss(batch).backward()
        still = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        # Marks of absence teach nothing where nothing is absent.
        assert not [k for k in still if gaps or "mix" not in k], still


@pytest.mark.parametrize("shape", ["plain", "covariates", "odd"])
def test_the_loop_is_the_recurrence_fed_with_its_own_prediction(shape: str) -> None:
    net = network(shape).double()
    decoder = net.decoder.blocks
    lag, steps = 9, 14
    z = torch.randn(net.config.channels, 2, lag, dtype=torch.float64)
    known = torch.randn(2, lag + steps, net.config.known, dtype=torch.float64) if net.config.known else None
    a, b, _, c, k = decoder.parts()
    matrix = torch.diag(torch.ones(a.shape[1] - 1, dtype=a.dtype), -1).repeat(len(a), 1, 1)
    matrix[..., -1] += a
    drive = decoder.drives(known)
    x = torch.zeros(len(a), 2, a.shape[1], dtype=a.dtype)
    seen, said = [], []
    for t in range(lag + steps):
        x = x if drive is None else x + drive[..., t, None] * decoder.impulse()[:, None]
        predicted = torch.einsum("hd,hbd->hb", k, x)
        said.append(torch.einsum("hd,hbd->hb", c, x))
        seen.append(predicted)
        entering = z[..., t] if t < lag else predicted
        x = torch.einsum("hij,hbj->hbi", matrix, x) + b[:, None] * entering[..., None]
    closed = decoder.closed(z, steps, known)
    assert torch.allclose(closed, torch.stack(said[lag:], -1), atol=1e-10)
    outputs, inputs = decoder.open(z, known)
    assert torch.allclose(outputs[..., :-1], torch.stack(said[1:lag], -1), atol=1e-10)
    assert torch.allclose(inputs[..., :-1], torch.stack(seen[1:lag], -1), atol=1e-10)
    # One system: the first step ahead is what the open loop says after the last lag.
    assert torch.allclose(outputs[..., -1], closed[..., 0], atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_longer_horizons_begin_with_the_trained_one(shape: str) -> None:
    net = network(shape)
    y, known, past = series(net, 3, 30, 31)
    long = net(y, known, past, horizon=31)
    short = net(y, None if known is None else known[:, :42], past)
    assert long.shape[1] == 31
    assert torch.allclose(long[:, :12], short, atol=1e-5)
    assert float(long[:, 12:].detach().std()) > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_do_not_see_each_other(shape: str) -> None:
    net = network(shape)
    y, known, past = series(net, 3, 30, 12)

    def one(v: Tensor | None) -> Tensor | None:
        return None if v is None else v[1:2]

    whole, alone = net(y, known, past), net(y[1:2], one(known), one(past))
    assert torch.allclose(whole[1:2], alone, atol=1e-5)


@pytest.mark.parametrize("shape", ["plain", "covariates", "odd", "shift"])
def test_absent_values_leave_no_trace(shape: str) -> None:
    net = network(shape)
    y, known, past = series(net, 3, 30, 12)
    there = torch.rand(y.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    one = net(y.where(there, 0.0), known, past, there)
    other = net(y.where(there, 1e3), known, past, there)
    assert torch.equal(one, other)
    assert not torch.allclose(one, net(y, known, past), atol=1e-3)


def test_a_window_without_any_value_is_forecast_at_the_level_of_nothing() -> None:
    net = network("plain")
    y = torch.zeros(2, 30, 1)
    assert bool(net(y, observed=torch.zeros_like(y, dtype=torch.bool)).isfinite().all())


@pytest.mark.parametrize("transform", ["mean", "last", "standardise"])
def test_a_shifted_series_has_a_shifted_forecast(transform: str) -> None:
    net = network("plain", transform=transform, linear_skip=True)
    y, _, _ = series(net, 3, 30, 12)
    assert torch.allclose(net(y + 7), net(y) + 7, atol=1e-4)


def test_a_constant_series_is_no_division_by_zero() -> None:
    net = network("plain", transform="standardise")
    assert bool(net(torch.full((2, 30, 1), 3.0)).isfinite().all())


def test_known_covariates_of_a_step_reach_that_step_and_none_before() -> None:
    net = network("odd")
    y, known, past = series(net, 2, 30, 12)
    assert known is not None
    changed = known.clone()
    changed[:, 36] += 1.0
    gap = (net(y, changed, past) - net(y, known, past)).abs().amax((0, 2))
    assert float(gap[:6].max()) < 1e-6
    assert float(gap[6]) > 1e-3


def test_initial_covariates_change_nothing() -> None:
    net = SpaceTime.seeded(SpaceTimeConfig(**SMALL, known=2), 0).eval()
    y, known, _ = series(net, 2, 30, 12)
    assert known is not None
    assert torch.allclose(net(y, known), net(y, 0 * known), atol=1e-6)


def test_the_same_seed_draws_the_same_network_and_leaves_the_callers_numbers_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    one, two = (SpaceTime.seeded(SpaceTimeConfig(**SMALL), 5).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(1), wanted)
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_dropout_leaves_out_the_share_it_says() -> None:
    net = network("plain", dropout=0.25).train()
    y, _, _ = series(net, 2, 30, 12)
    mixed = torch.stack([net(y) for _ in range(100)])
    quiet = net.eval()(y)
    assert float(mixed.std(0).min()) > 0
    # The mean over many draws of the last layer is near the forecast without any.
    assert float((mixed.mean(0) - quiet).abs().mean()) < 0.3 * float(mixed.std(0).mean())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"lag": 0}, "lag=0"),
        ({"horizon": 2.5}, "horizon=2.5"),
        ({"transform": "max"}, "none, mean, last, standardise"),
        ({"system": "s4"}, "companion, shift"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"min_average": 30}, "exchange"),
        ({"compat": True, "model_dim": 12}, "multiple of 8"),
        ({"compat": True, "known": 1}, "compat"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        SpaceTimeConfig(**{**SMALL, **changes})  # type: ignore[arg-type]


def test_missing_inputs_are_named() -> None:
    net = network("covariates")
    y, known, past = series(net, 2, 30, 12)
    for given, word in (
        ((y[:, :20], known, past), "30 or more lags"),
        ((y[..., :1], known, past), "2"),
        ((y, None, past), "known"),
        ((y, known, None), "past"),
        ((y, None if known is None else known[:, :35], past), "future values"),
    ):
        with pytest.raises(UserError, match=word):
            net(*given)
    with pytest.raises(UserError, match="unknown"):
        SpaceTimeConfig.of({"kernel_dimension": 3}, lag=1, horizon=1)
