"""Fourier neural operators of the neuraloperator package on runs on a regular grid, three seeds in turn on one machine.

Shapes: R runs, T frames, X Y nodes of the grid, C components, S numbers of a run, W frames of a window, B batch.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def available() -> bool:
    """Whether neuraloperator is installed."""
    return importlib.util.find_spec("neuralop") is not None


@dataclass
class Fno:
    """Trained operators, one a seed, that predict W frames at once from the last one.

    Args:
        models: neuraloperator's FNO. window: W. shape: (X, Y).
        mean, std: (C,) of the fields; static_mean, static_std: (S,).
        held: (X, Y) true where the first frame's values stay.
        seconds: Wall time of the training, all seeds together. steps: Optimiser steps of one seed.
    """

    models: list[Any]
    window: int
    shape: tuple[int, int]
    mean: Tensor
    std: Tensor
    static_mean: Tensor
    static_std: Tensor
    held: Tensor
    seconds: float = 0.0
    steps: int = 0

    def rollout(self, first: Tensor, static: Tensor, frames: int, member: int) -> Tensor:
        """All frames (R, T, N, C) from the first (R, N, C)."""
        x = self._scaled(first)
        numbers = (static - self.static_mean) / self.static_std
        found = [x[:, None]]
        for _ in range(-(-(frames - 1) // self.window)):
            found.append(self.ahead(self.models[member], found[-1][:, -1], numbers))
        y = torch.cat(found, dim=1)[:, :frames]
        return (y * self.std[:, None, None] + self.mean[:, None, None]).movedim(2, -1).flatten(2, 3)

    def ahead(self, model: Any, x: Tensor, numbers: Tensor) -> Tensor:
        """The next W frames (B, W, C, X, Y) from one (B, C, X, Y), scaled."""
        planes = numbers[:, :, None, None].expand(-1, -1, *self.shape)
        change = model(torch.cat([x, planes], dim=1)).unflatten(1, (self.window, -1))
        return x[:, None] + torch.where(self.held, 0.0, change)

    def _scaled(self, values: Tensor) -> Tensor:
        return ((values - self.mean) / self.std).movedim(-1, -2).unflatten(-1, self.shape)


def train(
    values: Tensor,
    static: Tensor,
    shape: tuple[int, int],
    held: Tensor,
    *,
    periodic: bool,
    seconds: float,
    seeds: Sequence[int],
    device: torch.device,
    window: int = 4,
    modes: int = 12,
    width: int = 32,
    layers: int = 4,
    batch: int = 32,
    lr: float = 2e-3,
    noise: float = 0.01,
) -> Fno:
    """Operators trained side by side for `seconds` of wall time altogether.

    Args:
        values: (R, T, N, C), N = X * Y with Y fastest. static: (R, S).
        held: (N,) true at nodes whose values are known and stay.
        periodic: Whether the axes wrap around; otherwise the grid is padded.
        window, modes, width, layers: Frames at once, Fourier modes an axis, channels, blocks.
        batch, lr, noise: Windows a step, greatest learning rate, noise on the first frame in standard deviations.
    Returns: The trained operators; the learning rate falls along a cosine of the time used.
    """
    from neuralop.models import FNO

    values, static = values.to(device), static.to(device)
    runs, frames, _, components = values.shape
    mean = values.mean(dim=(0, 1, 2))
    std = (values - mean).std(dim=(0, 1, 2)).clamp_min(1e-12)
    spread = static.std(dim=0) if runs > 1 else torch.ones_like(static[0])
    where = held.to(device).reshape(shape)
    found = Fno([], window, shape, mean, std, static.mean(dim=0), spread.clamp_min(1e-12), where)
    scaled = ((values - mean) / std).movedim(-1, -2).unflatten(-1, shape)
    numbers = (static - found.static_mean) / found.static_std
    optimisers = []
    for seed in seeds:
        torch.manual_seed(seed)
        model = FNO(
            n_modes=(modes, modes),
            in_channels=components + static.shape[1],
            out_channels=components * window,
            hidden_channels=width,
            n_layers=layers,
            domain_padding=None if periodic else 0.15,
        ).to(device)
        found.models.append(model)
        optimisers.append(torch.optim.Adam(model.parameters(), lr=lr))
    generator = torch.Generator().manual_seed(seeds[0])
    began = time.perf_counter()
    while (used := (time.perf_counter() - began) / seconds) < 1:
        # Longer windows towards the end, as the graph networks beside it.
        unroll = 1 if used < 0.4 else 2 if used < 0.7 else 4
        unroll = min(unroll, (frames - 1) // window)
        rate = lr * (0.01 + 0.99 * 0.5 * (1 + torch.cos(torch.tensor(used * torch.pi)).item()))
        for model, optimiser in zip(found.models, optimisers, strict=True):
            pick = torch.randint(runs, (batch,), generator=generator)
            start = torch.randint(frames - unroll * window, (batch,), generator=generator)
            at = (start[:, None] + torch.arange(unroll * window + 1)).to(device)
            target = scaled[pick.to(device)[:, None], at]
            x = target[:, 0] + noise * torch.randn_like(target[:, 0]) * ~where
            said = []
            for _ in range(unroll):
                said.append(found.ahead(model, x, numbers[pick.to(device)]))
                x = said[-1][:, -1]
            loss = (torch.cat(said, dim=1) - target[:, 1:]).square().mean()
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.steps += 1
    found.seconds = time.perf_counter() - began
    for model in found.models:
        model.eval().requires_grad_(False)
    return found
