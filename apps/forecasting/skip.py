"""The linear part beside the network: a map of the lags, last value subtracted, and the effect of known covariates.

Shapes: B windows, L lags, T steps ahead, C targets, K known covariates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from farfield.apps.forecasting.config import SpaceTimeConfig


class LinearSkip(nn.Module):
    """y_{n+t} = last + sum_l w_{t,l} (y_l - last) + drift_t, shared by the targets.

    y is meant without the effect of the known covariates. Zero weights repeat the last value; `baselines.initialise`
    sets them by ridge regression. Beyond the trained horizon the map is applied to its own forecasts.
    """

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.lag = config.lag
        self.weight = nn.Parameter(torch.zeros(config.horizon, config.lag))
        self.drift = nn.Parameter(torch.zeros(config.horizon))
        self.effect = nn.Parameter(torch.zeros(config.targets, config.known)) if config.known else None

    def covariate_effect(self, known: Tensor) -> Tensor:
        """(B, T, K) -> (B, T, C)."""
        assert self.effect is not None
        return known @ self.effect.mT

    def forward(self, u: Tensor, horizon: int) -> Tensor:
        """(C, B, L') -> (C, B, T); only the last L observations are read."""
        window = u[..., -self.lag :]
        parts: list[Tensor] = []
        left = horizon
        while left > 0:
            last = window[..., -1:]
            # All rows at once where one pass is enough.
            ahead = last + (window - last) @ self.weight[:left].mT + self.drift[:left]
            parts.append(ahead)
            left -= ahead.shape[-1]
            window = torch.cat([window, ahead], -1)[..., -self.lag :]
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]
