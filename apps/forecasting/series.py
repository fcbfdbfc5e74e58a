"""One series, modelled: scale, covariates, stack, network and the widths of its intervals; numbers in and out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.apps.forecasting.bank import Array, windows_at
from farfield.apps.forecasting.conformal import Conformal
from farfield.apps.forecasting.covariates import Effect, fit_effect
from farfield.apps.forecasting.scale import Scale
from farfield.apps.forecasting.sizes import lag_of, model_of, whole
from farfield.apps.forecasting.stack import Bank, Stack, Trial, copy_of, replay, run_bank, targets_at, weigh
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.forecasting.network import Examples, Network
    from farfield.apps.forecasting.spacetime import SpaceTime
    from farfield.apps.forecasting.stream import Stream

# The bank reads this many of the newest values, the network this many windows of them.
MOST_VALUES = 20_000
MOST_WINDOWS = 2_000
# How much a network of other series is believed before it has been seen on this one.
PRIOR = 0.5


@dataclass(frozen=True)
class Plan:
    """What is decided before a fit.

    Args:
        horizon: Steps that are trained for and calibrated.
        season: Observations of a period; 1 is none.
        lag: Values that the network looks at; None follows from length, season and horizon.
        sizes: Of the network; empty follows from the length.
        use_network: False leaves it out.
        epochs: Of the network; None follows from the number of windows.
        logarithm: "auto" tries it where all values are above 0.
        seed: Of the network.
        device, precision: Of the network's training.
    """

    horizon: int
    season: int = 1
    lag: int | None = None
    sizes: dict[str, Any] = field(default_factory=dict)
    use_network: bool = True
    epochs: int | None = None
    logarithm: bool | str = "auto"
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Refuses what no fit can follow."""
        whole("horizon", self.horizon, 1)
        whole("season", self.season, 1, "; 1 is no season")
        whole("seed", self.seed, 0)
        if self.lag is not None:
            whole("lag", self.lag, 1)
        if self.epochs is not None:
            whole("epochs", self.epochs, 0)
        if self.logarithm not in (True, False, "auto"):
            raise UserError(f"logarithm={self.logarithm}: true, false and auto are accepted")


@dataclass
class SeriesModel:
    """A fitted model in the state after its newest value; `read` moves it in O(K + P + d) a value.

    y = scale^-1(stack + strength (network - stack) + beta . x); intervals are symmetric before scale^-1.

    Args:
        plan: As fitted, the lag filled in.
        scale: Logarithm or not, centre and spread.
        effect: Of the covariates.
        stack, network: The parts; None where the network did not help.
        conformal: Interval widths and the forecasts that they wait for.
        count: Values read.
        stream: The network's recurrence after them; None without a network.
    """

    plan: Plan
    scale: Scale
    effect: Effect
    stack: Stack
    network: Network | None
    conformal: Conformal
    count: int
    stream: Stream | None = None
    _said: tuple[tuple[int, int], Array] | None = field(default=None, repr=False)

    @classmethod
    def fit(cls, y: Array, x: Array | None, plan: Plan, pretrained: SpaceTime | None = None) -> SeriesModel:
        """Fits everything.

        Args:
            y: Values, NaN where missing; at least one is known (n,).
            x: Covariates without NaN (n, K).
            plan: What is decided.
            pretrained: A network of the same lag, horizon and covariates: it is judged here, never trained.
        """
        count, y = len(y), y[-MOST_VALUES:]
        x = np.zeros((len(y), 0)) if x is None else x[-MOST_VALUES:]
        scale, bank, effect = _choose_scale(y, x, plan)
        z = scale.forward(y) - effect.of(x)
        stack, trial = weigh(bank)
        lag = plan.lag or lag_of(len(y), plan.season, plan.horizon)
        if pretrained is not None:
            lag = pretrained.config.lag
        plan = Plan(**{**vars(plan), "lag": lag, "sizes": plan.sizes or dict(model_of(len(y)))})
        past = effect.standardise(x)
        network, conformal = _beside(z, past, bank.filled, stack, trial, plan, pretrained)
        model = cls(plan, scale, effect, stack, network, conformal, count)
        if network is not None:
            from farfield.apps.forecasting.stream import Stream

            rows = np.maximum(np.arange(len(z) - lag, len(z)), 0)
            model.stream = Stream.begin(network.net, windows_at(bank.filled, rows[-1:], lag)[0], past[rows])
        model._issue()
        return model

    def forecast(self, horizon: int, x: Array | None = None) -> Array:
        """The next values (H,).

        Args:
            horizon: H, at most or beyond the trained one.
            x: Covariates of those steps (H, K).
        """
        ahead = self._ahead(horizon, x)
        return self.scale.backward(self._standardised(horizon, ahead) + self.effect.of(ahead))

    def forecast_intervals(
        self, horizon: int, x: Array | None, rates: Array, *, adaptive: bool = True
    ) -> tuple[Array, Array]:
        """Lower and upper ends by miss rate, (H, A) each."""
        ahead = self._ahead(horizon, x)
        centre = self._standardised(horizon, ahead) + self.effect.of(ahead)
        half = self.conformal.widths(horizon, np.asarray(rates), adaptive=adaptive)
        return self.scale.backward(centre[:, None] - half), self.scale.backward(centre[:, None] + half)

    def read(self, value: float, x: Array | None = None, *, adapt: bool = True) -> None:
        """Takes the next value, NaN where it is missing: every state moves, no parameter does.

        Args:
            value: y.
            x: Covariates beside it (K,).
            adapt: Judge earlier forecasts by it and make the next one, which costs a forecast: O(H (K + P)).
        """
        row = self.effect.centre[None] if x is None else np.asarray(x, dtype=np.float64).reshape(1, -1)
        z = float(self.scale.forward(np.array([value]))[0]) if np.isfinite(value) else np.nan
        z -= float(self.effect.of(row)[0])
        filled = self.stack.read(z)
        if self.stream is not None:
            self.stream.read(filled, self.effect.standardise(row)[0])
        self.count += 1
        if adapt:
            self.conformal.observe(z)
            self._issue()

    def copy(self) -> SeriesModel:
        """An independent copy of the states; the fitted parts are shared."""
        import copy

        twin = copy.copy(self)
        twin.stack, twin.conformal = copy_of(self.stack), copy.deepcopy(self.conformal)
        twin.stream = None if self.stream is None else self.stream.copy()
        return twin

    def _issue(self) -> None:
        # Future covariates are not known here: the forecast to be judged has the effect taken out, as its truth has.
        self.conformal.issue(self._standardised(self.plan.horizon, self._usual(self.plan.horizon)))

    def _usual(self, horizon: int) -> Array:
        """Covariates at their means (H, K)."""
        return np.tile(self.effect.centre, (horizon, 1))

    def _ahead(self, horizon: int, x: Array | None) -> Array:
        if self.effect.inputs and x is None:
            raise UserError(
                f"the model was fitted with {self.effect.inputs} covariates: give X, their values at the steps ahead"
            )
        return np.zeros((horizon, 0)) if x is None or not self.effect.inputs else np.asarray(x, dtype=np.float64)

    def _standardised(self, horizon: int, x: Array) -> Array:
        """Forecast without scale and covariates' linear effect (H,); the last one is remembered."""
        if self._said is not None and not self.effect.inputs and self._said[0] == (self.count, horizon):
            return self._said[1]
        z = self.stack.forecast(horizon)
        if self.network is not None and self.stream is not None:
            known = self.effect.standardise(x) if self.effect.inputs else None
            z = z + self.network.strength * (self.stream.forecast(horizon, known) - z)
        self._said = ((self.count, horizon), np.asarray(z))
        return self._said[1]


def _choose_scale(y: Array, x: Array, plan: Plan) -> tuple[Scale, Bank, Effect]:
    """Values as they are or their logarithm: whichever the stack forecasts better, judged in the series' own units."""
    tried: list[tuple[float, int, Scale, Bank, Effect]] = []
    for scale in Scale.candidates(y, plan.logarithm):
        z = scale.forward(y)
        effect = fit_effect(z, x, plan.season)
        bank = run_bank(z - effect.of(x), plan.season, plan.horizon)
        _, trial = weigh(bank)
        rows = slice(trial.cut, None)
        truth = targets_at(y, trial.origins, plan.horizon)[rows]
        along = targets_at(effect.of(x), trial.origins, plan.horizon)[rows]
        error = np.abs(scale.backward(trial.forecasts[rows] + along) - truth)
        known = np.isfinite(error)
        tried.append((float(error[known].mean()) if known.any() else 0.0, len(tried), scale, bank, effect))
    return min(tried, key=lambda t: t[:2])[2:]


def _beside(
    z: Array, x: Array, filled: Array, stack: Stack, trial: Trial, plan: Plan, pretrained: SpaceTime | None
) -> tuple[Any, Conformal]:
    """The network and the scores of forecasts that the parts did not learn from."""
    scores = np.abs(trial.truth - trial.forecasts)[trial.cut :]
    if pretrained is None and not plan.use_network:
        return None, Conformal.of(scores)
    from farfield.apps.forecasting.network import fit_network, judged

    examples = examples_of(z, x, filled, stack, trial, plan)
    if pretrained is not None:
        network = judged(pretrained, examples, np.flatnonzero(examples.complete()), prior=PRIOR)
    else:
        network = fit_network(examples, plan)
    if network is not None:
        _, later = examples.split()
        known = None if examples.known is None else examples.known[later]
        away = network.forecast(examples.windows[later], known, plan.horizon) - examples.stack[later]
        mixed = examples.stack[later] + network.strength * away
        scores = np.abs(examples.truth[later] - mixed)
    return network, Conformal.of(scores)


def examples_of(z: Array, x: Array, filled: Array, stack: Stack, trial: Trial, plan: Plan) -> Examples:
    """Windows of a standardised series, up to MOST_WINDOWS of them."""
    from farfield.apps.forecasting.network import Examples

    lag, horizon = plan.lag or 1, plan.horizon
    first = min(lag - 1, len(z) - 1)
    origins = np.unique(np.linspace(first, len(z) - 1, min(MOST_WINDOWS, len(z) - first)).astype(np.int64))
    # Every later origin of a short series is in the trial already, and honest there.
    shared = np.isin(origins, trial.origins)
    if shared[origins >= trial.origins[0]].all():
        said = np.full((len(origins), horizon), np.nan)
        said[shared] = trial.forecasts[np.searchsorted(trial.origins, origins[shared])]
    else:
        said = replay(z, stack, origins, horizon)
    known = None
    if x.shape[1]:
        padded = np.concatenate([x, np.full((horizon, x.shape[1]), np.nan)])
        known = padded[np.maximum(origins[:, None] + np.arange(1 - lag, horizon + 1), 0)]
    return Examples(windows_at(filled, origins, lag), targets_at(z, origins, horizon), said, origins, known)
