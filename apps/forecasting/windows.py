"""Windows over series without copying them: a batch is gathered when it is asked for.

Shapes: N windows, B of them in a batch, L lags, T steps ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from farfield.apps.training.errors import UserError


class Batch(NamedTuple):
    """Windows and their futures: y (B, L, C), future (B, T, C), known (B, L + T, K), past (B, L, P), marks of what is
    observed; None where there is nothing of the kind, or nothing is missing."""

    y: Tensor
    future: Tensor
    known: Tensor | None
    past: Tensor | None
    observed: Tensor | None
    future_observed: Tensor | None


class Windows:
    """All windows of `lag` observations and `horizon` steps after them, in one series or a panel of them.

    Args:
        y: (time, targets), or (time,), or a sequence of such: a panel. NaN is missing.
        lag, horizon: Observations read and forecast.
        known, past: (time, covariates) beside y, without NaN; a sequence for a panel.
        first: Earliest observation that may be forecast, by series row; None is the first after the lags.
        stride: Rows between windows.
        dtype: Of the tensors.
    Raises: UserError: shapes that do not belong together, covariates with NaN, no window at all.
    """

    def __init__(
        self,
        y: ArrayLike | Sequence[ArrayLike],
        lag: int,
        horizon: int,
        *,
        known: ArrayLike | Sequence[ArrayLike] | None = None,
        past: ArrayLike | Sequence[ArrayLike] | None = None,
        first: int | None = None,
        stride: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.lag, self.horizon = lag, horizon
        series = _panel(y)
        self.targets = series[0].shape[1]
        lengths = [len(s) for s in series]
        begin = np.concatenate([[0], np.cumsum(lengths)])
        skipped = 0 if first is None else max(0, first - lag)
        # The last window of a series ends with the series.
        starts = [np.arange(b + skipped, e - lag - horizon + 1, stride) for b, e in pairwise(begin)]
        self._starts = torch.from_numpy(np.concatenate(starts)).long()
        if len(self._starts) == 0:
            longest = max(lengths)
            raise UserError(
                f"no window of lag={lag} and horizon={horizon} fits: the longest series has {longest} observations,"
                f" {lag + horizon + skipped} are needed; take a shorter lag or horizon"
            )
        self._y = _stack(series, dtype, "y")
        self.known = 0 if known is None else _panel(known)[0].shape[1]
        self._known = _beside(known, lengths, dtype, "known")
        self._past = _beside(past, lengths, dtype, "past")
        observed = ~self._y.isnan()
        self._observed = None if bool(observed.all()) else observed
        self._offsets = torch.arange(lag + horizon)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def complete(self) -> bool:
        """Nothing is missing."""
        return self._observed is None

    def to(self, device: torch.device | str) -> Windows:
        """The same windows, the series on a device."""
        other = object.__new__(Windows)
        for name, value in self.__dict__.items():
            other.__dict__[name] = value.to(device) if isinstance(value, Tensor) else value
        return other

    def select(self, *, known: bool = True, past: bool = True) -> Windows:
        """The same windows without some of the covariates."""
        other = object.__new__(Windows)
        other.__dict__.update(self.__dict__)
        if not known:
            other._known, other.known = None, 0
        if not past:
            other._past = None
        return other

    def batch(self, indices: Tensor | slice) -> Batch:
        """The windows of these numbers, on the device of the series."""
        rows = self._starts[indices][:, None] + self._offsets
        lags = rows[:, : self.lag]
        y = self._y[rows]
        observed = None if self._observed is None else self._observed[rows]
        if observed is not None:
            y = y.where(observed, 0.0)
        return Batch(
            y[:, : self.lag],
            y[:, self.lag :],
            None if self._known is None else self._known[rows],
            None if self._past is None else self._past[lags],
            None if observed is None else observed[:, : self.lag],
            None if observed is None else observed[:, self.lag :],
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """All windows in their order; the last batch holds what is left."""
        for i in range(0, len(self), size):
            yield self.batch(slice(i, i + size))


def _panel(y: ArrayLike | Sequence[ArrayLike]) -> list[np.ndarray]:
    parts = list(y) if isinstance(y, list | tuple) and len(y) and np.ndim(y[0]) > 0 else [y]
    series = []
    for part in parts:
        array = np.asarray(part, dtype=np.float64)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1] == 0:
            raise UserError(f"a series of shape {array.shape} came; (time,) or (time, targets) is accepted")
        series.append(array)
    widths = {s.shape[1] for s in series}
    if len(widths) > 1:
        raise UserError(f"series with {', '.join(map(str, sorted(widths)))} columns came; one number is accepted")
    return series


def _stack(series: list[np.ndarray], dtype: torch.dtype, name: str) -> Tensor:
    stacked = torch.from_numpy(np.concatenate(series)).to(dtype)
    if bool(stacked.isinf().any()):
        raise UserError(f"{name} holds infinite values; replace them, or make them NaN where y is missing")
    return stacked


def _beside(
    values: ArrayLike | Sequence[ArrayLike] | None, lengths: list[int], dtype: torch.dtype, name: str
) -> Tensor | None:
    if values is None:
        return None
    series = _panel(values)
    if [len(s) for s in series] != lengths:
        raise UserError(f"{name} has {[len(s) for s in series]} rows, the series {lengths}; give one row for each")
    stacked = _stack(series, dtype, name)
    if bool(stacked.isnan().any()):
        raise UserError(f"{name} covariates hold missing values; fill them, only the targets may lack some")
    return stacked
