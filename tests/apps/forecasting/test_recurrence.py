"""A trained network as a recurrence: equal to the convolution, with gaps and covariates too."""

from __future__ import annotations

import pytest
import torch

from farfield.apps.training.errors import UserError
from tests.apps.forecasting.networks import network, series

CASES = ["plain", "covariates", "odd", "free", "shift"]


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    assert float(y.abs().max()) > 1e-3
    return float((x - y).abs().max() / y.abs().max())


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("refresh", [None, 7, 10_000])
@pytest.mark.parametrize("shape", CASES)
def test_recurrence_is_the_convolution(shape: str, refresh: int | None, gaps: bool) -> None:
    net = network(shape)
    lag, length, ahead = net.config.lag, 83, 15
    y, known, past = series(net, 3, length, ahead)
    there = torch.rand(y.shape, generator=torch.Generator().manual_seed(4)) > 0.25
    recurrence = net.recurrence(refresh)
    state = recurrence.start(3)
    for t in range(length):
        seen = y[:, t].masked_fill(~there[:, t], torch.nan) if gaps else y[:, t]
        recurrence.update(state, seen, *(None if v is None else v[:, t] for v in (known, past)))
    first = length - lag - state.fresh
    assert state.fresh == {None: 23, 7: 4, 10_000: 53}[refresh]
    forecast = recurrence.forecast(state, ahead, None if known is None else known[:, length:])
    direct = net(
        y[:, first:],
        None if known is None else known[:, first:],
        None if past is None else past[:, first:],
        there[:, first:] if gaps else None,
        ahead,
        state.level,
    )
    assert relative(forecast, direct) < 1e-5
    again = recurrence.forecast(state, ahead, None if known is None else known[:, length:])
    assert torch.equal(forecast, again)


def test_a_state_at_a_refresh_forecasts_as_the_window_does() -> None:
    net = network("covariates")
    y, known, past = series(net, 2, 30, 12)
    assert known is not None
    assert past is not None
    recurrence = net.recurrence()
    state = recurrence.start(2)
    for t in range(30):
        recurrence.update(state, y[:, t], known[:, t], past[:, t])
    assert relative(recurrence.forecast(state, 12, known[:, 30:]), net(y, known, past)) < 1e-5


def test_three_thousand_steps_stay_equal() -> None:
    net = network("plain").double()
    y, _, _ = series(net, 1, 3_000, 12)
    y = y.double().sin()
    recurrence = net.recurrence(10**6)
    state = recurrence.start(1)
    for t in range(3_000):
        recurrence.update(state, y[:, t])
    assert relative(recurrence.forecast(state, 12), net(y, against=state.level)) < 1e-5


def test_mistakes_are_named() -> None:
    net = network("covariates")
    y, known, past = series(net, 2, 30, 12)
    recurrence = net.recurrence()
    state = recurrence.start(2)
    assert known is not None
    assert past is not None
    with pytest.raises(UserError, match="known"):
        recurrence.update(state, y[:, 0], None, past[:, 0])
    with pytest.raises(UserError, match="30 are needed"):
        recurrence.forecast(state, 3)
    for t in range(30):
        recurrence.update(state, y[:, t], known[:, t], past[:, t])
    with pytest.raises(UserError, match="future values"):
        recurrence.forecast(state, 3)
    with pytest.raises(UserError, match="refresh=0"):
        net.recurrence(0)
    with pytest.raises(UserError, match="compat"):
        network("plain", compat=True, n_kernels=2).recurrence()
