"""A network that reads one series value by value: the state between two forecasts of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farfield.apps.forecasting.bank import Array
from farfield.apps.forecasting.level import Level
from farfield.apps.forecasting.recurrence import Recurrence, State
from farfield.apps.forecasting.spacetime import SpaceTime


@dataclass
class Stream:
    """The recurrence of a network of one target, and where it stands in a series.

    Args:
        recurrence: Of the trained network; shared by copies.
        state: Moved by every value.
    """

    recurrence: Recurrence
    state: State

    @classmethod
    def begin(cls, net: SpaceTime, window: Array, past: Array) -> Stream:
        """After the last L values (L,) and the known covariates beside them (L, K)."""
        recurrence = net.recurrence()
        state = recurrence.start()
        stream = cls(recurrence, state)
        for value, known in zip(window, past, strict=True):
            stream.read(value, known)
        return stream

    def read(self, value: float, known: Array) -> None:
        """One value, no gap, and the covariates beside it (K,): O(d) a channel."""
        self.recurrence.update(self.state, torch.tensor([[value]], dtype=torch.float32), self._beside(known))

    def forecast(self, horizon: int, known: Array | None) -> Array:
        """The next values (H,); known are the covariates of those steps (H, K)."""
        said = self.recurrence.forecast(self.state, horizon, self._beside(known))
        return np.asarray(said[0, :, 0].double().numpy())

    def _beside(self, known: Array | None) -> Tensor | None:
        """Covariates as the network reads them; what a network without any is given is left out."""
        if known is None or not self.recurrence.config.known:
            return None
        return torch.from_numpy(known.astype(np.float32))[None]

    def copy(self) -> Stream:
        """An independent copy of the state."""
        return Stream(self.recurrence, copy.deepcopy(self.state))

    def pack(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state as plain values and tensors; there is a level, as L values were read."""
        state = self.state
        assert state.level is not None
        tensors = {name: getattr(state, name) for name in ("lags", "filled", "inputs", "decoder")}
        tensors |= {"level": state.level.level, "scale": state.level.scale}
        tensors |= {f"block{i}": block for i, block in enumerate(state.blocks)}
        return {"seen": state.seen, "fresh": state.fresh}, {k: v.contiguous() for k, v in tensors.items()}

    @classmethod
    def of(cls, net: SpaceTime, settings: dict[str, Any], tensors: dict[str, Tensor]) -> Stream:
        """What `pack` took apart."""
        blocks = [tensors[f"block{i}"] for i in range(net.config.n_blocks)]
        level = Level(tensors["level"], tensors["scale"])
        state = State(
            settings["seen"], settings["fresh"], tensors["lags"], level, tensors["filled"], tensors["inputs"], blocks,
            tensors["decoder"],
        )  # fmt: skip
        return cls(net.recurrence(), state)
