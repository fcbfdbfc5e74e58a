"""What a window is measured against: u = (y - level) / scale, and back.

Shapes: B windows, L observations, C targets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from farfield.apps.forecasting.config import SpaceTimeConfig


class Level(NamedTuple):
    """Level and scale of every window, (B, 1, C) each."""

    level: Tensor
    scale: Tensor

    def apply(self, y: Tensor) -> Tensor:
        """(y - level) / scale."""
        return (y - self.level) / self.scale

    def invert(self, u: Tensor) -> Tensor:
        """u * scale + level."""
        return u * self.scale + self.level


def measure(y: Tensor, observed: Tensor | None, config: SpaceTimeConfig) -> Level:
    """Level and scale of the observed values of each window; a window without any has level 0 and scale 1.

    mean: the mean; last: the last observed value; standardise: mean and deviation (of n - 1), where
    scale = sqrt(variance + epsilon^2), so that a constant window is no division by zero.

    Args:
        y: (B, L, C), any value where observed is false.
        observed: (B, L, C) bool; None is all.
        config: Which transform; compat takes the bare deviation.
    """
    one = torch.ones_like(y[:, :1])
    if config.transform == "none":
        return Level(torch.zeros_like(one), one)
    if config.transform == "last":
        return Level((y if observed is None else fill_forward(y, observed))[:, -1:], one)
    if observed is None:
        count, mean = one * y.shape[1], y.mean(1, keepdim=True)
        centred = y - mean
    else:
        count = observed.sum(1, keepdim=True).to(y.dtype)
        mean = y.where(observed, 0.0).sum(1, keepdim=True) / count.clamp(min=1)
        centred = (y - mean).where(observed, 0.0)
    if config.transform == "mean":
        return Level(mean, one)
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return Level(mean, variance.sqrt() if config.compat else (variance + config.epsilon**2).sqrt())


def fill_forward(y: Tensor, observed: Tensor) -> Tensor:
    """Every absent value replaced by the last observed one before it, by 0 where there is none.

    Args:
        y, observed: (B, L, C).
    """
    steps = torch.arange(y.shape[1], device=y.device)[None, :, None]
    latest = steps.where(observed, -1).cummax(1).values
    filled = y.gather(1, latest.clamp(min=0))
    return filled.where(latest >= 0, 0.0)
