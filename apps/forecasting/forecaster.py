"""`SpaceTimeForecaster`: the model as a forecaster of sktime."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sktime.forecasting.base import BaseForecaster, ForecastingHorizon

from farfield.apps.forecasting.bank import Array
from farfield.apps.forecasting.panel import pretrain_network
from farfield.apps.forecasting.series import Plan, SeriesModel
from farfield.apps.forecasting.sizes import season_of, whole
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


class SpaceTimeForecaster(BaseForecaster):  # type: ignore[misc]
    """State spaces for forecasts: a bank of them weighed by their own errors, and a SpaceTime network beside it.

    The bank (exponential smoothing, recursive autoregressions) is fitted without gradients in a second or so. The
    network starts as a ridge regression on the last `lag` values, is trained on the earlier windows of the series and
    counts as much as later windows bear out; on short series that is often nothing. Intervals are conformal, and are
    adapted by every `update`.

    Parameters
    ----------
    horizon : int, optional
        Steps that are trained for and calibrated; longer forecasts go on in the closed loop. Default: the horizon
        given to `fit`, without one a period of the series, at least 6.
    season : int, optional
        Observations of a period. Default: from the frequency of the index, without one from the autocorrelation.
    lag : int, optional
        Values that the network looks at. Default: three periods or two horizons, at most a third of the series.
    network : bool, default=True
        False leaves the bank alone.
    model : dict, optional
        Sizes of the network (`SpaceTimeConfig`). Default: from the length of the series.
    epochs : int, optional
        Of the network. Default: 200 steps.
    logarithm : bool or "auto", default="auto"
        Model the logarithm; "auto" where all values are above 0 and it forecasts the series better.
    adaptive : bool, default=True
        Intervals follow the coverage that they had since the fit; False keeps the split-conformal ones.
    random_state : int or RandomState, optional
        The same int gives the same bits.
    device : str, default="cpu"
        Where the network is trained.

    Attributes
    ----------
    model_ : SeriesModel
        The fitted parts; `model_.stack.weights`, `model_.network.strength`, `model_.effect.beta` can be read.

    Examples
    --------
    >>> from sktime.datasets import load_airline
    >>> from farfield.apps.forecasting.forecaster import SpaceTimeForecaster
    >>> y = load_airline()
    >>> forecaster = SpaceTimeForecaster(random_state=0, network=False)
    >>> forecaster.fit(y, fh=[1, 2, 3])
    SpaceTimeForecaster(...)
    >>> y_pred = forecaster.predict()
    """

    _tags = {  # noqa: RUF012
        "authors": ["farfield"],
        "maintainers": ["farfield"],
        "scitype:y": "univariate",
        "y_inner_mtype": "pd.Series",
        "X_inner_mtype": "pd.DataFrame",
        "requires-fh-in-fit": False,
        "X-y-must-have-same-index": False,
        "enforce_index_type": None,
        "capability:exogenous": True,
        "capability:categorical_in_X": False,
        "capability:missing_values": True,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:update": True,
        "capability:pretrain": True,
        "capability:random_state": True,
        "property:randomness": "derandomized",
        "python_dependencies": ["torch", "safetensors"],
    }

    def __init__(
        self,
        horizon: int | None = None,
        season: int | None = None,
        lag: int | None = None,
        network: bool = True,
        model: dict[str, Any] | None = None,
        epochs: int | None = None,
        logarithm: bool | str = "auto",
        adaptive: bool = True,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.horizon = horizon
        self.season = season
        self.lag = lag
        self.network = network
        self.model = model
        self.epochs = epochs
        self.logarithm = logarithm
        self.adaptive = adaptive
        self.random_state = random_state
        self.device = device
        with warnings.catch_warnings():
            # Of a default of sktime 1.3 that changes nothing here.
            warnings.filterwarnings("ignore", message="The default of config ``remember_data``", category=FutureWarning)
            super().__init__()

    def _fit(self, y: pd.Series, X: pd.DataFrame | None, fh: ForecastingHorizon | None) -> SpaceTimeForecaster:
        values = _numbers(y)
        if np.isinf(values).any():
            raise UserError("y holds infinite values; replace them, or make them NaN where the value is missing")
        if not np.isfinite(values).any():
            raise UserError(f"all {len(values)} values of y are missing: there is nothing to learn from")
        if self.season is not None:
            whole("season", self.season, 1, "; 1 is no season")
        season = self.season if self.season is not None else season_of(_frequency(y.index), values)
        horizon = self._steps(fh, season, len(values))
        pretrained = getattr(self, "pretrained_network_", None)
        if pretrained is not None:
            horizon = pretrained.config.horizon
        plan = Plan(
            horizon=horizon,
            season=max(1, min(season, len(values) // 2)),
            lag=self.lag,
            sizes=dict(self.model or {}),
            use_network=self.network,
            epochs=self.epochs,
            logarithm=self.logarithm,
            seed=self._seed(),
            device=self.device,
        )
        x = None if X is None else _covariates(X, y.index)
        if pretrained is not None and pretrained.config.known != (0 if x is None else x.shape[1]):
            came = 0 if x is None else x.shape[1]
            raise UserError(
                f"pretrained with {pretrained.config.known} covariates, fitted with {came}: give the same X to both"
            )
        self.model_ = SeriesModel.fit(values, x, plan, pretrained)
        self.columns_ = None if X is None else list(X.columns)
        self.last_ = y.index[-1:]
        self.name_ = y.name
        return self

    def _predict(self, fh: ForecastingHorizon, X: pd.DataFrame | None) -> pd.Series:
        steps = self._relative(fh)
        found = self.model_.forecast(int(steps.max()), self._ahead(int(steps.max()), X))
        return pd.Series(found[steps - 1], index=fh.to_absolute_index(self.cutoff), name=self.name_)

    def _predict_quantiles(self, fh: ForecastingHorizon, X: pd.DataFrame | None, alpha: list[float]) -> pd.DataFrame:
        steps = self._relative(fh)
        rates = np.array([2 * min(a, 1 - a) for a in alpha])
        below, above = self.model_.forecast_intervals(
            int(steps.max()), self._ahead(int(steps.max()), X), rates, adaptive=self.adaptive
        )
        columns = pd.MultiIndex.from_product([self._get_varnames(), alpha])
        found = np.where(np.asarray(alpha) < 0.5, below, above)[steps - 1]
        return pd.DataFrame(found, index=fh.to_absolute_index(self.cutoff), columns=columns)

    def _update(self, y: pd.Series, X: pd.DataFrame | None = None, update_params: bool = True) -> SpaceTimeForecaster:
        # The states follow the data; the parameters stay until the next fit.
        new = y[y.index > self.last_[0]]
        if not len(new):
            return self
        x = None
        if self.columns_ is not None and X is not None:
            x = _covariates(X[self.columns_], new.index, self.model_.effect.centre)
        for _ in range(_skipped(self.last_, new.index)):
            self.model_.read(np.nan)
        values = _numbers(new)
        if np.isinf(values).any():
            raise UserError("y holds infinite values; replace them, or make them NaN where the value is missing")
        for i, value in enumerate(values):
            self.model_.read(value, None if x is None else x[i])
        self.last_ = new.index[-1:]
        return self

    def _pretrain(self, y: pd.DataFrame, X: pd.DataFrame | None = None, fh: ForecastingHorizon | None = None) -> Any:
        levels = list(range(y.index.nlevels - 1))
        groups = y.groupby(level=levels if len(levels) > 1 else 0)
        series = [(frame[c], name) for name, frame in groups for c in frame]
        values = [_numbers(s) for s, _ in series]
        longest = max(values, key=len)
        index = max((s.index.get_level_values(-1) for s, _ in series), key=len)
        season = self.season if self.season is not None else season_of(_frequency(index), longest)
        x = None
        if X is not None:
            x = [_covariates(X.loc[name], s.index.get_level_values(-1)) for s, name in series]
        plan = Plan(
            horizon=self._steps(fh, season, len(longest)),
            season=season,
            lag=self.lag,
            sizes=dict(self.model or {}),
            epochs=self.epochs,
            logarithm=self.logarithm,
            seed=self._seed(),
            device=self.device,
        )
        self.pretrained_network_ = pretrain_network(values, x, plan)
        return self

    def save(self, path: str | Path | None = None, serialization_format: str = "pickle") -> Any:
        """In memory as sktime does; at a path as a zip of JSON and safetensors (see `storage`)."""
        if path is None:
            return super().save(None, serialization_format)
        from farfield.apps.forecasting.storage import write_forecaster

        return write_forecaster(self, path)

    @classmethod
    def load_from_path(cls, serial: str | Path) -> SpaceTimeForecaster:
        """A forecaster as it was when it was saved there; nothing is unpickled."""
        from farfield.apps.forecasting.storage import read_forecaster

        return read_forecaster(cls, serial)

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Two small settings for sktime's checks."""
        small = {"model_dim": 4, "kernel_dim": 2, "n_kernels": 2, "dropout": 0.0}
        return [
            {"horizon": 3, "network": False, "random_state": 0},
            {"horizon": 2, "lag": 3, "season": 1, "model": small, "epochs": 1, "random_state": 1},
        ]

    def _steps(self, fh: ForecastingHorizon | None, season: int, length: int) -> int:
        if self.horizon is not None:
            return int(self.horizon)
        if fh is not None and (fh.is_relative or self._cutoff is not None):
            relative = np.asarray(fh.to_relative(self._cutoff).to_numpy(), dtype=np.int64)
            if relative.max() > 0:
                return int(relative.max())
        return max(1, min(max(season, 6), length // 4))

    def _relative(self, fh: ForecastingHorizon) -> Any:
        steps = np.asarray(fh.to_relative(self.cutoff).to_numpy(), dtype=np.int64)
        if steps.min() < 1:
            raise UserError(f"fh={list(steps)}: steps after the last value are forecast, 1 is the first")
        return steps

    def _ahead(self, horizon: int, X: pd.DataFrame | None) -> Array | None:
        """Covariates of the steps 1 to horizon (H, K); those not given repeat the last given before them."""
        if self.columns_ is None:
            return None
        if X is None:
            raise UserError(f"fitted with X of columns {self.columns_}: give X with their values at the steps ahead")
        index = ForecastingHorizon(range(1, horizon + 1), is_relative=True).to_absolute_index(self.cutoff)
        return _covariates(X[self.columns_], index, self.model_.effect.centre)

    def _seed(self) -> int:
        from sklearn.utils import check_random_state

        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _numbers(y: pd.Series) -> Array:
    return np.asarray(pd.to_numeric(y), dtype=np.float64)


def _covariates(X: pd.DataFrame, index: pd.Index, otherwise: Array | None = None) -> Array:
    """Rows of X at an index (n, K): what is missing repeats the value before it, then the one after it, then a mean."""
    rows = X.reindex(index) if not X.index.equals(index) else X
    values = np.asarray(rows.ffill().bfill(), dtype=np.float64)
    if np.isinf(values).any():
        raise UserError("X holds infinite values; replace them")
    means = np.zeros(values.shape[1]) if otherwise is None else otherwise
    return np.where(np.isnan(values), means, values)


def _frequency(index: pd.Index) -> str | None:
    """Alias of an index's frequency; None for whole numbers and where nothing is regular."""
    if isinstance(index, pd.PeriodIndex):
        return str(index.freqstr)
    if isinstance(index, pd.DatetimeIndex):
        return index.freqstr or (pd.infer_freq(index) if len(index) > 2 else None)
    return None


def _skipped(last: pd.Index, new: pd.Index) -> int:
    """Observations that are missing between the newest one read and the first new one."""
    try:
        if isinstance(last, pd.DatetimeIndex):
            frequency = new.freq or last.freq
            return 0 if frequency is None else max(0, len(pd.date_range(last[0], new[0], freq=frequency)) - 2)
        gap = new[0] - last[0]
        return max(0, int(getattr(gap, "n", gap)) - 1)
    except (TypeError, ValueError):
        return 0
