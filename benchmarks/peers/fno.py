"""Fourier neural operators of the neuraloperator package on runs on a regular grid, three seeds in turn on one machine.

Shapes: R runs, T frames, X Y nodes of the grid, C components, S numbers of a run, W frames of a window, B batch.
"""

from __future__ import annotations

import importlib.util
import math
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
    batch: int = 16,
    lr: float = 3e-3,
    noise: float = 0.003,
    recorded: bool = True,
) -> Fno:
    """Operators trained side by side for `seconds` of wall time altogether.

    Args:
        values: (R, T, N, C), N = X * Y with Y fastest. static: (R, S).
        held: (N,) true at nodes whose values are known and stay.
        periodic: Whether the axes wrap around; otherwise the grid is padded.
        window, modes, width, layers: Frames at once, Fourier modes an axis, channels, blocks.
        batch, lr, noise: Windows a step, greatest learning rate, noise on the first frame in standard deviations.
        recorded: Whether a GPU records a step once and replays it.
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
    optimiser = torch.optim.Adam([p for model in found.models for p in model.parameters()], lr=lr)
    generator = torch.Generator().manual_seed(seeds[0])
    passes: dict[int, Pass] = {}
    began = time.perf_counter()
    while (used := (time.perf_counter() - began) / seconds) < 1:
        # Longer windows towards the end, as the graph networks beside it.
        unroll = min(1 if used < 0.4 else 2 if used < 0.7 else 4, (frames - 1) // window)
        if unroll not in passes:
            passes[unroll] = Pass(found, scaled, numbers, unroll, batch, noise, recorded and device.type == "cuda")
        pick = torch.randint(runs, (len(seeds), batch), generator=generator)
        start = torch.randint(frames - unroll * window, (len(seeds), batch), generator=generator)
        passes[unroll].gradients(pick, start)
        optimiser.param_groups[0]["lr"] = lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(used * math.pi)))
        for model in found.models:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.steps += 1
    found.seconds = time.perf_counter() - began
    for model in found.models:
        model.eval().requires_grad_(False)
    return found


class Pass:
    """Forward and backward passes of all seeds; recorded once and replayed on a GPU, which else waits for Python.

    Args:
        fno: The operators. values: (R, T, C, X, Y), scaled. numbers: (R, S), scaled. unroll: Windows in a row.
    """

    def __init__(
        self, fno: Fno, values: Tensor, numbers: Tensor, unroll: int, batch: int, noise: float, recorded: bool
    ) -> None:
        self.fno, self.values, self.numbers, self.unroll, self.noise = fno, values, numbers, unroll, noise
        self.ahead = torch.arange(unroll * fno.window + 1, device=values.device)
        self.pick = torch.zeros(len(fno.models), batch, dtype=torch.int64, device=values.device)
        self.start = torch.zeros_like(self.pick)
        self.graph: torch.cuda.CUDAGraph | None = None
        if recorded:
            for p in self._parameters():
                p.grad = torch.zeros_like(p)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    self._run()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._run()

    def gradients(self, pick: Tensor, start: Tensor) -> None:
        """Gradients of windows that begin at frames `start` of runs `pick`, both (seeds, batch)."""
        self.pick.copy_(pick)
        self.start.copy_(start)
        if self.graph is None:
            self._run()
        else:
            self.graph.replay()

    def _parameters(self) -> list[Tensor]:
        return [p for model in self.fno.models for p in model.parameters()]

    def _run(self) -> None:
        for p in self._parameters():
            if p.grad is not None:
                p.grad.zero_()
        for model, pick, start in zip(self.fno.models, self.pick, self.start, strict=True):
            target = self.values[pick[:, None], start[:, None] + self.ahead]
            x = target[:, 0] + self.noise * torch.randn_like(target[:, 0]) * ~self.fno.held
            said = []
            for _ in range(self.unroll):
                said.append(self.fno.ahead(model, x, self.numbers[pick]))
                x = said[-1][:, -1]
            (torch.cat(said, dim=1) - target[:, 1:]).square().mean().backward()
