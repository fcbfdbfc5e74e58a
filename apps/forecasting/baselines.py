"""Forecasts that a network has to beat: last value, seasonal naive, ridge regression on the lags.

Shapes: N windows, L lags, T steps ahead, C targets, K known covariates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from farfield.apps.forecasting.level import fill_forward
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.forecasting.windows import Batch, Windows
from farfield.apps.training.errors import UserError

LAMBDAS = (1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5)
# Part of the validation error that covariates have to leave at most.
GAIN = 0.98
# How much of the estimated effect of covariates may be taken, beside none.
PARTS = (0.25, 0.5, 0.75, 1.0)
CHUNK = 1024


@dataclass(frozen=True)
class Ridge:
    """y_{n+t} = last + sum_l w_{t,l} (y_l - last) + drift_t, y without the effect of known covariates.

    Attributes:
        weight: (T, L); drift: (T,), effect: (C, K) or None; all float64.
        penalty: The lambda that validation chose.
        mse, mae: Over all windows of validation.
    """

    weight: Tensor
    drift: Tensor
    effect: Tensor | None
    penalty: float
    mse: float
    mae: float

    def __call__(self, batch: Batch) -> Tensor:
        """(B, T, C), for any T up to the trained one."""
        y, known = batch.y.double(), batch.known
        steps = batch.future.shape[1]
        effect = None
        if self.effect is not None and known is not None:
            effect = known.double() @ self.effect.to(y.device).mT
            y = y - effect[:, : y.shape[1]]
        y, last = _filled(y, batch.observed)
        weight, drift = self.weight[:steps].to(y.device), self.drift[:steps].to(y.device)
        ahead = torch.einsum("blc,tl->btc", y - last, weight) + last + drift[:, None]
        return (ahead if effect is None else ahead + effect[:, y.shape[1] :]).to(batch.y.dtype)


def fit_ridge(windows: Windows, validation: Windows, penalties: tuple[float, ...] = LAMBDAS) -> Ridge:
    """Ridge regression on lags minus the last value; validation chooses the penalty, and how much covariates count.

    The drift (the mean step of training) carries no penalty. The effect of known covariates is what explains, beside
    the lags, y_{n+t} - last by known_{n+t} - known_n at all steps together; the lags are then regressed anew without
    it. Windows with a gap in their future do not train.

    Complexity: O(N L (L + T (1 + C K))) once, O(L^3) a regression.
    """
    plain = _Sums(windows, None)
    best = plain.best(validation, penalties)
    if windows.known:
        effect = _effect(windows, plain, best)
        found = [_Sums(windows, part * effect).best(validation, penalties) for part in PARTS]
        # What chance alone would win is no reason to read a covariate.
        best = min([r for r in found if r.mse < GAIN * best.mse], key=lambda ridge: ridge.mse, default=best)
    return best


class _Sums:
    """Moments of the training pairs (lags minus last, future minus last), the effect of covariates taken off."""

    def __init__(self, windows: Windows, effect: Tensor | None) -> None:
        self.effect = effect
        pairs = 0
        x_sum = y_sum = gram = cross = torch.zeros((), dtype=torch.float64)
        for x, y, _ in _pairs(windows, effect):
            pairs, gram, cross = pairs + len(x), gram + x.mT @ x, cross + x.mT @ y
            x_sum, y_sum = x_sum + x.sum(0), y_sum + y.sum(0)
        if not pairs:
            raise UserError("no training window has a complete future; give more data, or a shorter horizon")
        self.x_mean, self.y_mean = x_sum / pairs, y_sum / pairs
        self.values, self.vectors = torch.linalg.eigh(gram - pairs * torch.outer(self.x_mean, self.x_mean))
        self.cross = cross - pairs * torch.outer(self.x_mean, self.y_mean)

    def solve(self, cross: Tensor, penalty: float) -> Tensor:
        """(gram + penalty)^-1 cross, (L, n)."""
        solution: Tensor = self.vectors @ ((self.vectors.mT @ cross) / (self.values.clamp(min=0) + penalty)[:, None])
        return solution

    def best(self, validation: Windows, penalties: tuple[float, ...]) -> Ridge:
        """The regression of the best penalty."""
        found: Ridge | None = None
        for penalty in penalties:
            weight = self.solve(self.cross, penalty).mT
            drift = self.y_mean - weight @ self.x_mean
            candidate = Ridge(weight, drift, self.effect, penalty, 0.0, 0.0)
            mse, mae = baseline_errors(candidate, validation)
            if found is None or mse < found.mse:
                found = Ridge(weight, drift, self.effect, penalty, mse, mae)
        assert found is not None
        return found


def _effect(windows: Windows, sums: _Sums, ridge: Ridge) -> Tensor:
    """(C, K): the regression of what the lags leave of y on what they leave of the covariates, all steps together."""
    k = windows.known
    products = torch.zeros(windows.targets, k, k + 1, dtype=torch.float64)
    count = torch.zeros(windows.targets, dtype=torch.float64)
    # Moments by target: of the lags, of (covariates, y) of every step, and between them.
    inner = [torch.zeros((), dtype=torch.float64)] * windows.targets
    means = [torch.zeros((), dtype=torch.float64)] * windows.targets
    for x, y, extra in _pairs(windows, None):
        known, target = extra
        assert known is not None
        for i in range(windows.targets):
            use = target == i
            # (n, T, K + 1): what changes from the last lag to each step.
            both = torch.cat([known[use], y[use][..., None]], -1)
            centred = x[use] - sums.x_mean
            products[i] += torch.einsum("ntk,ntj->kj", both[..., :k], both)
            inner[i] = inner[i] + centred.mT @ both.flatten(1)
            means[i] = means[i] + both.sum(0)
            count[i] += int(use.sum())
    effect = torch.zeros(windows.targets, k, dtype=torch.float64)
    for i in range(windows.targets):
        if not count[i]:
            continue
        solved = sums.solve(inner[i], ridge.penalty)
        shape = (-1, windows.horizon, k + 1)
        a, b = inner[i].reshape(shape), solved.reshape(shape)
        mean = means[i]
        moments = products[i] - torch.einsum("ltk,ltj->kj", a[..., :k], b)
        moments = moments - torch.einsum("tk,tj->kj", mean[..., :k], mean) / count[i]
        gram = moments[:, :k]
        floor = 1e-8 * products[i][:, :k].diagonal() + 1e-12
        effect[i] = torch.linalg.solve(gram + torch.diag(floor), moments[:, k])
    return effect


def initialise(net: SpaceTime, windows: Windows, validation: Windows) -> Ridge:
    """Sets the linear skip of a network to the ridge regression of its windows.

    Raises: UserError: the network has none.
    """
    if net.skip is None:
        raise UserError("the network has no linear skip to initialise; take linear_skip=True")
    ridge = fit_ridge(windows, validation)
    with torch.no_grad():
        net.skip.weight.copy_(ridge.weight)
        net.skip.drift.copy_(ridge.drift)
        if net.skip.effect is not None and ridge.effect is not None:
            net.skip.effect.copy_(ridge.effect)
    return ridge


def last_value(batch: Batch) -> Tensor:
    """The last observed value, repeated: (B, T, C)."""
    _, last = _filled(batch.y, batch.observed)
    return last.expand(-1, batch.future.shape[1], -1)


def seasonal_naive(period: int) -> SeasonalNaive:
    """The value of one period ago, repeated.

    Args:
        period: Observations of a season, no more than the lags.
    """
    return SeasonalNaive(period)


@dataclass(frozen=True)
class SeasonalNaive:
    """The last `period` observations, again and again."""

    period: int

    def __call__(self, batch: Batch) -> Tensor:
        """(B, T, C)."""
        if not 1 <= self.period <= batch.y.shape[1]:
            raise UserError(f"season={self.period}: a whole number from 1 to the {batch.y.shape[1]} lags is accepted")
        y, _ = _filled(batch.y, batch.observed)
        steps = batch.future.shape[1]
        return y[:, -self.period :].repeat(1, -(-steps // self.period), 1)[:, :steps]


def baseline_errors(forecast: Ridge | SeasonalNaive | object, windows: Windows) -> tuple[float, float]:
    """Mean square and mean absolute error of a forecast over everything observed in all windows."""
    assert callable(forecast)
    square, absolute, count = 0.0, 0.0, 0
    for batch in windows.batches(CHUNK):
        gap = (forecast(batch) - batch.future).double()
        if batch.future_observed is not None:
            gap = gap[batch.future_observed]
        square, absolute = square + float(gap.square().sum()), absolute + float(gap.abs().sum())
        count += gap.numel()
    return square / max(count, 1), absolute / max(count, 1)


def _filled(y: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gaps filled forward, and the last value (B, 1, C)."""
    if observed is not None:
        first = y.gather(1, observed.int().argmax(1, keepdim=True))
        y = fill_forward(y - first, observed) + first
    return y, y[:, -1:]


def _pairs(windows: Windows, effect: Tensor | None) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor | None, Tensor]]]:
    """Lags and futures minus the last value, (n, L) and (n, T), of complete futures; the covariates' changes since the
    last lag (n, T, K), and which target a row is (n,)."""
    for batch in windows.batches(CHUNK):
        y, future = batch.y.double(), batch.future.double()
        known = None if batch.known is None else batch.known.double()
        if effect is not None and known is not None:
            said = known @ effect.to(y.device).mT
            y, future = y - said[:, : y.shape[1]], future - said[:, y.shape[1] :]
        y, last = _filled(y, batch.observed)
        x, ahead = (y - last).transpose(1, 2).flatten(0, 1), (future - last).transpose(1, 2).flatten(0, 1)
        target = torch.arange(y.shape[2], device=y.device).repeat(len(y))
        changes = None
        if known is not None:
            changes = known[:, y.shape[1] :] - known[:, y.shape[1] - 1 : y.shape[1]]
            changes = changes.repeat_interleave(y.shape[2], 0)
        if batch.future_observed is not None:
            whole = batch.future_observed.transpose(1, 2).flatten(0, 1).all(1)
            x, ahead, target = x[whole], ahead[whole], target[whole]
            changes = None if changes is None else changes[whole]
        yield x, ahead, (changes, target)
