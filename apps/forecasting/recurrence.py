"""A trained network as a recurrence: each new observation moves a state of fixed size.

Shapes: B series, C targets, D channels, d state size, L lags, T steps ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farfield.apps.forecasting.blocks import CompanionBlock, Rollout, final_state
from farfield.apps.forecasting.level import Level
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.training.errors import UserError
from farfield.core_ops import companion_ssm


@dataclass
class State:
    """What a recurrence remembers of B series; `update` moves it in place.

    Attributes:
        seen: Observations so far.
        fresh: Observations since the level was measured.
        lags: Last L observations, covariates and marks side by side, (B, 2 L, C + known + past + C): every row is
            written twice, so that the last L always lie together.
        level: What the series are measured against; None before L observations.
        filled: Last value seen, measured, (B, C).
        inputs: Last measured and filled values that the preprocessing filters read, (C, B, taps).
        blocks: State of each encoder block, (B, D, d).
        decoder: State of the closed loop before the next observation, (B, D, d).
    """

    seen: int
    fresh: int
    lags: Tensor
    level: Level | None
    filled: Tensor
    inputs: Tensor
    blocks: list[Tensor]
    decoder: Tensor


class Recurrence:
    """O(d) per channel and observation in place of a window's convolution, to the same forecasts.

    The level of a window is that of the L observations when it was last measured. `forecast` after n further
    observations equals `net(y of all L + n, against=that level)`; at every refresh it equals `net(last L)`.

    Args:
        net: Network whose weights are read now; later training does not reach it.
        refresh: Observations after which the state is computed anew from the last L; None is L, which costs O(d) per
            observation too.
    """

    def __init__(self, net: SpaceTime, refresh: int | None = None) -> None:
        if net.config.compat:
            raise UserError("compat=True: the released decoder's open and closed loop differ; take compat=False")
        if refresh is not None and refresh < 1:
            raise UserError(f"refresh={refresh}: a whole number from 1 on is accepted")
        self.net = net
        self.config = net.config
        self.refresh = net.config.lag if refresh is None else refresh
        with torch.no_grad():
            blocks: list[CompanionBlock] = net.encoder.layers()
            self._systems = [block.systems() for block in blocks]
            self._filters = filters_of(blocks[0])
            self._decoder = net.decoder.blocks.parts()
            self._rollouts: dict[int, Rollout] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is made again when a horizon is asked for."""
        return {**vars(self), "_rollouts": {}}

    def start(self, batch: int = 1) -> State:
        """The state of B series of which nothing has been seen."""
        config = self.config
        like = self._decoder[0]
        columns = 2 * config.targets + config.known + config.past
        blocks = [like.new_zeros(batch, config.channels, config.kernel_dim) for _ in self._systems]
        return State(
            0,
            0,
            like.new_zeros(batch, 2 * config.lag, columns),
            None,
            like.new_zeros(batch, config.targets),
            like.new_zeros(config.targets, batch, self._filters.shape[1]),
            blocks,
            torch.zeros_like(blocks[0]),
        )

    @torch.no_grad()
    def update(
        self,
        state: State,
        y: Tensor,
        known: Tensor | None = None,
        past: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> State:
        """One observation of every series.

        Args:
            state: Moved in place.
            y: (B, C); NaN is absent.
            known: (B, known), past: (B, past), of the same time.
            observed: (B, C) bool; None is what is no NaN.
        Returns: The same state.
        """
        config = self.config
        y = y.to(state.lags.dtype)
        observed = ~y.isnan() if observed is None else observed & ~y.isnan()
        y = y.where(observed, 0.0)
        row = [y]
        for name, value, wanted in (("known", known, config.known), ("past", past, config.past)):
            if (0 if value is None else value.shape[-1]) != wanted:
                came = None if value is None else tuple(value.shape)
                raise UserError(f"{name} covariates of shape {came} came; ({len(y)}, {wanted}) is accepted")
            if value is not None:
                row.append(value.to(y.dtype))
        place = state.seen % config.lag
        state.lags[:, place] = state.lags[:, place + config.lag] = torch.cat([*row, observed.to(y.dtype)], -1)
        state.seen += 1
        state.fresh += 1
        if state.seen < config.lag:
            return state
        if state.level is None or state.fresh >= self.refresh:
            self._anchor(state)
        else:
            self._step(state, y, known, past, observed)
        return state

    @torch.no_grad()
    def forecast(self, state: State, horizon: int, known_future: Tensor | None = None) -> Tensor:
        """The next steps of every series; the state stays as it is.

        Args:
            known_future: (B, T, known)
        Returns: (B, T, C)
        Raises: UserError: fewer than L observations were seen.
        """
        if state.level is None:
            raise UserError(f"{state.seen} observations were seen, {self.config.lag} are needed before a forecast")
        if horizon not in self._rollouts:
            self._rollouts[horizon] = self.net.decoder.blocks.rollout(horizon)
        rollout = self._rollouts[horizon]
        y, known, _, observed = self._window(state)
        whole = None
        if self.config.known:
            came = None if known_future is None else tuple(known_future.shape)
            wanted = (len(y), horizon, self.config.known)
            if known_future is None or came != wanted:
                raise UserError(f"future values of the known covariates of shape {came} came; {wanted} is accepted")
            assert known is not None
            whole = torch.cat([known, known_future.to(y.dtype)], 1)
        return self.net.conclude(state.decoder.transpose(0, 1), rollout, y, whole, observed, state.level)

    def _window(self, state: State) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """The last L observations in their order: y, known, past, marks."""
        config = self.config
        begin = state.seen % config.lag
        window = state.lags[:, begin : begin + config.lag]
        sizes = (config.targets, config.known, config.past, config.targets)
        y, known, past, observed = torch.split(window, list(sizes), -1)
        return y, known if config.known else None, past if config.past else None, observed > 0

    def _anchor(self, state: State) -> None:
        """Level and states of the last L observations, all at once."""
        y, known, past, observed = self._window(state)
        net = self.net
        u, level = net.enter(y, known, observed, None)
        state.level, state.fresh = level, 0
        state.filled = u[..., -1].mT.clone()
        taps = state.inputs.shape[-1]
        state.inputs = torch.nn.functional.pad(u, (taps, 0))[..., -taps:].clone()
        z = net.first_input(u, known, past, observed)
        for i, block in enumerate(net.encoder.layers()):
            a, b, _ = self._systems[i]
            state.blocks[i] = final_state(z, a, b).transpose(0, 1)
            z = block(z)
        decoder = net.decoder.blocks
        state.decoder = decoder.state(z, decoder.drives(known)).transpose(0, 1)

    def _step(self, state: State, y: Tensor, known: Tensor | None, past: Tensor | None, observed: Tensor) -> None:
        """O(d) a channel: filters on the last inputs, then one step of every system."""
        net, level = self.net, state.level
        assert level is not None
        if known is not None and net.skip is not None and net.skip.effect is not None:
            y = y - net.skip.covariate_effect(known)
        u = ((y - level.level[:, 0]) / level.scale[:, 0]).where(observed, state.filled)
        state.filled = u
        state.inputs = torch.cat([state.inputs[..., 1:], u.mT[..., None]], -1)
        known_now, past_now = (None if v is None else v[:, None] for v in (known, past))
        covariates = net.covariates(1, known_now, past_now, observed[:, None])
        z = net.encoder.layers()[0].mixed(
            torch.einsum("cbw,vw->vcb", state.inputs, self._filters.flip(1))[..., None],
            observed.mT[..., None],
            covariates,
        )
        for i, block in enumerate(net.encoder.layers()):
            v, state.blocks[i] = companion_ssm.companion_step(state.blocks[i], z[..., 0].mT, *self._systems[i])
            z = z + block.after(v.mT[..., None], z)
        a, b, _, c, _ = self._decoder
        x, decoder = state.decoder, net.decoder.blocks
        drive = decoder.drives(known_now)
        if drive is not None:
            x = x + drive[..., 0].mT[..., None] * decoder.impulse()
        _, state.decoder = companion_ssm.companion_step(x, z[..., 0].mT, a, b, c)


def filters_of(block: CompanionBlock) -> Tensor:
    """The preprocessing filters of a first block, (V, taps)."""
    assert block.pre is not None
    return block.pre.filters().clone()
