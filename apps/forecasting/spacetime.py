"""SpaceTime: companion state spaces for forecasts, as released and corrected.

Shapes: B windows, L observations, T steps ahead, C targets, D channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from farfield.apps.forecasting.blocks import Decoder, Encoder, Mixer, Rollout
from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.forecasting.level import Level, fill_forward, measure
from farfield.apps.forecasting.skip import LinearSkip
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.forecasting.recurrence import Recurrence
    from farfield.apps.forecasting.windows import Batch

__all__ = ["Predictions", "SpaceTime", "SpaceTimeConfig"]
THREE_TERMS = (1.0, 1.0, 1.0)


class Predictions(NamedTuple):
    """What training compares: the closed loop (B, T, C), the open loop (B, L, C), the decoder's input and its
    prediction (D, B, L)."""

    closed: Tensor
    open: Tensor
    inputs: Tensor
    predicted_inputs: Tensor


class SpaceTime(nn.Module):
    """Forecasts a window by a closed-loop state space: encoder blocks, a rolled-out decoder, a linear head.

    u = (y - level) / scale; z = encoder(u); x = the decoder's state after the lags; y_{n+t} = level + scale *
    head(c^T (A + b k^T)^t x). Only the last state is computed, and the loop is rolled out on c, not on the state: the
    two exact rewrites that make a step cheap.

    Parameters carry the released names; `config.compat` computes as released. Source: Zhang et al. 2023, "Effectively
    Modeling Time Series with Simple Discrete State Spaces", arXiv:2303.09489.
    """

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.config = config
        # The released count: one and two blocks are the same network there, counted by the encoder here.
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.output = Mixer(config.channels, config.targets, config.dropout)
        self.skip = LinearSkip(config) if config.linear_skip else None
        if self.skip is not None:
            # The network starts as the linear map, and learns what that leaves.
            nn.init.zeros_(self.output.linear.weight)
            nn.init.zeros_(self.output.linear.bias)

    @classmethod
    def seeded(cls, config: SpaceTimeConfig, seed: int) -> SpaceTime:
        """A network whose initial weights depend on the seed alone; the caller's random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    def forward(
        self,
        y: Tensor,
        known: Tensor | None = None,
        past: Tensor | None = None,
        observed: Tensor | None = None,
        horizon: int | None = None,
        against: Level | None = None,
    ) -> Tensor:
        """Forecasts of windows.

        Args:
            y: (B, L, C); L = config.lag, or longer.
            known: (B, L + T, known), of the lags and of the steps ahead.
            past: (B, L, past)
            observed: (B, L, C) bool, what is there; None is all. NaN needs a false here.
            horizon: Steps; None is config.horizon, more than that goes on in the closed loop.
            against: Level and scale to measure against in place of the window's own.
        Returns: (B, T, C)
        Raises: UserError: a shape is not what the config says.
        """
        horizon = self.config.horizon if horizon is None else horizon
        self._check(y, known, past, observed, horizon)
        u, level = self.enter(y, known, observed, against)
        decoder = self.decoder.blocks
        z = self.encode(u, known, past, observed)
        state = decoder.state(z, decoder.drives(None if known is None else known[:, : y.shape[1]]))
        if observed is not None and y.shape[1] > self.config.lag:
            # The skip reads the last lags alone: what stands before fills none of their gaps.
            lag = self.config.lag
            ahead = None if known is None else known[:, -lag - horizon :]
            return self.conclude(state, decoder.rollout(horizon), y[:, -lag:], ahead, observed[:, -lag:], level)
        return self._conclude(state, decoder.rollout(horizon), u, known, level)

    def conclude(
        self,
        state: Tensor,
        rollout: Rollout,
        y: Tensor,
        known: Tensor | None,
        observed: Tensor | None,
        level: Level,
    ) -> Tensor:
        """Forecasts from the decoder's state: loop, head and skip, (B, T, C).

        Args:
            state: (D, B, d)
            rollout: Of as many steps as are wanted.
            y, known, observed, level: The last lags, as of `forward`.
        """
        u, _ = self.enter(y, known, observed, level)
        return self._conclude(state, rollout, u, known, level)

    def _conclude(self, state: Tensor, rollout: Rollout, u: Tensor, known: Tensor | None, level: Level) -> Tensor:
        horizon = rollout.terms.shape[-1]
        v = self.output(self.decoder.blocks.ahead(state, rollout, known))
        if self.skip is not None:
            v = v + self.skip(u, horizon)
        return self._leave(v, level, None if known is None else known[:, u.shape[-1] :])

    def predictions(self, batch: Batch) -> Predictions:
        """Closed and open loop of a batch of training windows."""
        lag = batch.y.shape[1]
        u, level = self.enter(batch.y, batch.known, batch.observed, None)
        z = self.encode(u, batch.known, batch.past, batch.observed)
        decoder = self.decoder.blocks
        closed = self.output(decoder.closed(z, batch.future.shape[1], batch.known))
        open_, predicted = decoder.open(z, batch.known)
        open_ = self.output(open_)
        if self.skip is not None:
            closed = closed + self.skip(u, closed.shape[-1])
        known = batch.known
        ahead, after = (None, None) if known is None else (known[:, lag:], known[:, 1 : lag + 1])
        return Predictions(self._leave(closed, level, ahead), self._leave(open_, level, after), z, predicted)

    def loss(self, batch: Batch, weights: tuple[float, float, float] = THREE_TERMS) -> Tensor:
        """w0 RMSE(closed loop) + w1 RMSE(open loop, one step ahead) + w2 RMSE(next decoder input).

        The open-loop terms leave out the first kernel_dim steps, in which the state fills. Absent values do not count.
        Corrected: a target of the third term is no place where gradients go, and all three act in every epoch; with a
        linear skip the open loop is the network's alone, and predicts what the level leaves.

        Args:
            batch: Windows with their futures.
            weights: Of the three; what has weight 0 is not computed.
        Returns: A number.
        """
        if not weights[1] and not weights[2]:
            y = self(batch.y, batch.known, batch.past, batch.observed, batch.future.shape[1])
            return weights[0] * rmse(y, batch.future, batch.future_observed)
        said = self.predictions(batch)
        d = min(self.config.kernel_dim, batch.y.shape[1] - 1)
        series = torch.cat([batch.y, batch.future[:, :1]], 1)[:, d:]
        there = None
        if batch.observed is not None and batch.future_observed is not None:
            there = torch.cat([batch.observed, batch.future_observed[:, :1]], 1)[:, d:]
        inputs = said.inputs if self.config.compat else said.inputs.detach()
        return (
            weights[0] * rmse(said.closed, batch.future, batch.future_observed)
            + weights[1] * rmse(said.open[:, d - 1 :], series, there)
            + weights[2] * rmse(said.predicted_inputs[..., d - 1 : -1], inputs[..., d:], None)
        )

    def encode(self, u: Tensor, known: Tensor | None, past: Tensor | None, observed: Tensor | None) -> Tensor:
        """(C, B, L) -> the decoder's input (D, B, L)."""
        z = self.first_input(u, known, past, observed)
        for block in self.encoder.layers():
            z = block(z)
        return z

    def first_input(self, u: Tensor, known: Tensor | None, past: Tensor | None, observed: Tensor | None) -> Tensor:
        """(C, B, L) -> what the first block's systems read, (D, B, L)."""
        marks = None if observed is None else observed.permute(2, 0, 1)
        return self.encoder.layers()[0].enter(u, marks, self.covariates(u.shape[-1], known, past, observed))

    def recurrence(self, refresh: int | None = None) -> Recurrence:
        """The trained network as a recurrence: O(d) per channel for each new observation.

        Args:
            refresh: Start again from the last lags after so many observations (None: after `lag` of them).
        """
        from farfield.apps.forecasting.recurrence import Recurrence

        return Recurrence(self, refresh)

    def covariates(self, lag: int, known: Tensor | None, past: Tensor | None, observed: Tensor | None) -> Tensor | None:
        """What the encoder reads beside the targets, (B, L, covariates): known, past, marks of absence."""
        config = self.config
        if not config.covariates or (known is None and past is None and observed is None):
            return None
        parts = [] if known is None else [known[:, :lag]]
        if past is not None:
            parts.append(past)
        first = parts[0] if parts else observed
        assert first is not None
        dtype = self.output.linear.weight.dtype
        shape = (*first.shape[:2], config.targets)
        parts.append(
            torch.zeros(shape, dtype=dtype, device=first.device) if observed is None else (~observed).to(dtype)
        )
        return torch.cat(parts, -1)

    def enter(
        self, y: Tensor, known: Tensor | None, observed: Tensor | None, against: Level | None
    ) -> tuple[Tensor, Level]:
        """Windows measured against their level, gaps filled: (B, L, C) -> (C, B, L)."""
        if self.skip is not None and known is not None and self.skip.effect is not None:
            y = y - self.skip.covariate_effect(known[:, : y.shape[1]])
        level = measure(y, observed, self.config) if against is None else against
        u = level.apply(y)
        if observed is not None:
            u = fill_forward(u, observed)
        return u.permute(2, 0, 1).contiguous(), level

    def _leave(self, v: Tensor, level: Level, known: Tensor | None) -> Tensor:
        """(C, B, T) -> (B, T, C) in the units of the series."""
        y = level.invert(v.permute(1, 2, 0))
        if self.skip is not None and known is not None and self.skip.effect is not None:
            y = y + self.skip.covariate_effect(known[:, : y.shape[1]])
        return y

    def _check(
        self, y: Tensor, known: Tensor | None, past: Tensor | None, observed: Tensor | None, horizon: int
    ) -> None:
        config = self.config
        if y.ndim != 3 or y.shape[2] != config.targets or y.shape[1] < config.lag:
            raise UserError(
                f"windows of shape {tuple(y.shape)} came; (windows, {config.lag} or more lags, {config.targets}"
                " targets) is accepted: give as many lags and targets as the network was made for"
            )
        if horizon < 1:
            raise UserError(f"horizon={horizon}: a whole number from 1 on is accepted")
        steps = y.shape[1]
        wanted = {
            "known": (known, (y.shape[0], steps + horizon, config.known), config.known),
            "past": (past, (y.shape[0], steps, config.past), config.past),
            "observed": (observed, tuple(y.shape), 0),
        }
        for name, (value, shape, needed) in wanted.items():
            if value is None and needed:
                raise UserError(
                    f"the network reads {needed} {name} covariates, none came; give {name}= of shape {shape}"
                )
            if value is not None and tuple(value.shape) != shape and name == "known" and value.shape[1] < shape[1]:
                raise UserError(
                    f"known covariates of {value.shape[1]} steps came, {shape[1]} are needed: the {steps} lags and the"
                    f" {horizon} steps ahead; give their future values too, or declare them past-only"
                )
            if value is not None and tuple(value.shape) != shape:
                raise UserError(f"{name} of shape {tuple(value.shape)} came, {shape} is accepted")
        if observed is not None and config.compat:
            raise UserError("compat=True: the released network takes no missing values; take compat=False")


def rmse(y: Tensor, target: Tensor, observed: Tensor | None) -> Tensor:
    """Root of the mean square over everything observed; 0 where nothing is."""
    square = (y - target).square()
    mean = square.mean() if observed is None else square.where(observed, 0.0).sum() / observed.sum().clamp(min=1)
    # A root has no gradient at 0: a constant series, or nothing observed.
    return mean.clamp(min=torch.finfo(y.dtype).tiny).sqrt()
