"""The SpaceTime network beside the stack: it starts as a ridge on the lags and is believed as far as it helps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from farfield.apps.forecasting.bank import Array, Index
from farfield.apps.forecasting.baselines import initialise
from farfield.apps.forecasting.optimise import train
from farfield.apps.forecasting.spacetime import SpaceTime, SpaceTimeConfig
from farfield.apps.forecasting.windows import Windows

if TYPE_CHECKING:
    from farfield.apps.forecasting.series import Plan

# Windows, to learn from and to judge by, below which the stack stands alone.
FEWEST, FEWEST_LATER = 30, 5
# Share of the windows that the epoch and the strength are chosen on: the last ones.
VALIDATION = 0.3
# Optimiser steps of a fit, spread over epochs; each window is seen at most MOST_EPOCHS times.
STEPS, MOST_EPOCHS = 200, 20
BATCH, PATIENCE, RATE = 32, 3, 3e-3
# Share of the stack's squared error that a network must save on later windows.
GAIN = 0.05
# Horizons of evidence at which half of the least-squares strength is believed.
DOUBT = 3.0


@dataclass
class Network:
    """A trained network and how much it is believed: z_hat = stack + strength (network - stack).

    Args:
        net: Forecasts standardised windows.
        strength: In [0, 1], from windows that it was not trained on.
    """

    net: SpaceTime
    strength: float

    @torch.no_grad()
    def forecast(self, windows: Array, known: Array | None, horizon: int) -> Array:
        """Its own forecasts (T, H).

        Args:
            windows: (T, L).
            known: Covariates of the lags and the steps ahead (T, L + H, K).
            horizon: H; beyond the trained one the closed loop goes on.
        """
        parts = []
        for start in range(0, len(windows), 256):
            rows = slice(start, start + 256)
            beside = None if known is None else torch.from_numpy(known[rows].astype(np.float32))
            y = torch.from_numpy(windows[rows].astype(np.float32))[..., None]
            parts.append(self.net(y, beside, horizon=horizon)[..., 0].double().numpy())
        return np.concatenate(parts)

    def settings(self) -> dict[str, Any]:
        """What, with the weights, makes the network again."""
        return {"config": asdict(self.net.config), "strength": self.strength}

    @classmethod
    def of(cls, settings: dict[str, Any], weights: dict[str, torch.Tensor]) -> Network:
        """The network that `settings` and its weights describe."""
        net = SpaceTime(SpaceTimeConfig.of(settings["config"]))
        net.load_state_dict(weights)
        return cls(net.eval(), float(settings["strength"]))


@dataclass(frozen=True)
class Examples:
    """Windows with what followed them and what the stack said.

    Args:
        windows: Standardised values up to each origin (T, L).
        truth: NaN where unknown (T, H).
        stack: Its forecasts (T, H).
        origins: Rising positions (T,).
        known: Covariates of lags and steps ahead (T, L + H, K), or None.
    """

    windows: Array
    truth: Array
    stack: Array
    origins: Index
    known: Array | None

    def complete(self) -> NDArray[np.bool_]:
        """Windows of which everything is known, what the stack said too (T,)."""
        known = np.isfinite(self.truth).all(1) & np.isfinite(self.stack).all(1)
        return np.asarray(known if self.known is None else known & np.isfinite(self.known).all((1, 2)))

    def split(self) -> tuple[Index, Index]:
        """Complete windows to learn from and later ones to judge by: no target of the first is one of the second's."""
        learnable = np.isfinite(self.truth).all(1)
        if self.known is not None:
            learnable &= np.isfinite(self.known).all((1, 2))
        cut = int(len(self.origins) * (1 - VALIDATION))
        early = self.origins + self.truth.shape[1] <= self.origins[cut]
        late = np.arange(len(self.origins)) >= cut
        return np.flatnonzero(learnable & early), np.flatnonzero(self.complete() & late)

    def panel(self, rows: Index) -> Windows:
        """Some of them as training windows, each a series of its own."""
        series = np.concatenate([self.windows[rows], self.truth[rows]], 1)[..., None]
        known = None if self.known is None else list(self.known[rows])
        return Windows(list(series), self.windows.shape[1], self.truth.shape[1], known=known)


def fit_network(examples: Examples, plan: Plan) -> Network | None:
    """Trains on the earlier windows, selects epoch and strength on the later ones; None: it is of no use."""
    early, later = examples.split()
    if len(early) < FEWEST or len(later) < FEWEST_LATER:
        return None
    net = train_on(examples.panel(early), examples.panel(later), plan)
    return judged(net, examples, later)


def train_on(windows: Windows, validation: Windows, plan: Plan) -> SpaceTime:
    """A network that started as a ridge regression on the lags; it is that still where training did not help.

    Args:
        windows, validation: To learn from and to select on.
        plan: Its sizes, epochs (None: as many as make STEPS steps), seed, device and precision.
    """
    batch = windows.batch(slice(0, 1))
    known = 0 if batch.known is None else batch.known.shape[-1]
    shape = {"lag": windows.lag, "horizon": windows.horizon, "known": known, "linear_skip": True}
    net = SpaceTime.seeded(SpaceTimeConfig.of({"transform": "last", **plan.sizes}, **shape), plan.seed)
    initialise(net, windows, validation)
    spent = min(MOST_EPOCHS, max(1, round(STEPS * BATCH / len(windows)))) if plan.epochs is None else plan.epochs
    train(
        net,
        windows,
        validation,
        seed=plan.seed,
        epochs=spent,
        batch_size=BATCH,
        patience=PATIENCE,
        lr=RATE,
        device=plan.device,
        precision=plan.precision,
    )
    return net.cpu().eval()


def judged(net: SpaceTime, examples: Examples, rows: Index, prior: float = 0.0) -> Network | None:
    """The network with its strength from these rows; None where it does not help there.

    The least-squares share of (network - stack) in (truth - stack), shrunk to `prior` by how few horizons they span.
    """
    network = Network(net, prior)
    if not len(rows):
        return network if prior else None
    known = None if examples.known is None else examples.known[rows]
    away = network.forecast(examples.windows[rows], known, examples.truth.shape[1]) - examples.stack[rows]
    missing = examples.truth[rows] - examples.stack[rows]
    power = float((away * away).sum())
    if power <= 0:
        return None
    share = float(np.clip((away * missing).sum() / power, 0.0, 1.0))
    saved = 1 - float(((missing - share * away) ** 2).sum()) / max(float((missing**2).sum()), 1e-300)
    evidence = (examples.origins[rows[-1]] - examples.origins[rows[0]] + 1) / examples.truth.shape[1]
    network.strength = float((evidence * share + DOUBT * prior) / (evidence + DOUBT))
    return network if (saved > GAIN or prior) and network.strength > 0 else None
