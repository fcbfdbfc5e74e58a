"""Runs as a network sees them: coarse, normalised, on its device; and what a window of them costs.

Shapes: K members, B samples, R runs, T frames, n coarse nodes, C components, X states and F frames of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farfield.apps.physics.clock import Clock, Windows, windows_of
from farfield.apps.physics.graphsplinenets import Known, amplitude, usual_length
from farfield.apps.physics.places import Places
from farfield.apps.physics.runs import Runs

# A parameter that is positive and spans at least this factor is told by its logarithm.
SPAN = 4.0
# Held values that move by more than this share of a field's spread have to be told.
MOVES = 1e-5


@dataclass(frozen=True)
class Scales:
    """How physical values become numbers of size one; all tensors float32 on the CPU.

    Args:
        mean, spread: (C,). input_mean, input_spread: (I,). signal_mean, signal_spread: (Z,).
        static_mean, static_spread: (S,), of the logarithm where static_log (S,) says so.
        length: Usual length of an interval. change: (intervals, r, C). moving: Whether held values change with time.
    """

    mean: Tensor
    spread: Tensor
    input_mean: Tensor
    input_spread: Tensor
    signal_mean: Tensor
    signal_spread: Tensor
    static_mean: Tensor
    static_spread: Tensor
    static_log: Tensor
    length: Tensor
    change: Tensor
    moving: Tensor

    def fields(self, values: Tensor) -> Tensor:
        """Physical fields (.., C) to normalised ones."""
        return (values - self.mean) / self.spread

    def physical(self, values: Tensor) -> Tensor:
        """Back."""
        return values * self.spread + self.mean

    def to(self, device: torch.device) -> Scales:
        """The scales on a device."""
        return Scales(**{name: value.to(device) for name, value in self.state().items()})

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def scales_of(train: Runs, places: Places, clock: Clock, by_run: bool) -> Scales:
    """Means and spreads of training runs; components of one field share a spread, so that directions stay equal."""
    values = train.values.double()
    mean = torch.zeros(values.shape[-1], dtype=torch.float64) if by_run else values.mean((0, 1, 2))
    spread = (values - mean).pow(2).mean((0, 1, 2)).sqrt()
    at = 0
    for _, count in train.fields:
        part = slice(at, at + count)
        spread[part] = spread[part].pow(2).mean().sqrt()
        at += count
    spread = torch.where(spread > 0, spread, 1.0)
    static = train.static.double()
    log = (static > 0).all(0) & (static.amax(0) >= SPAN * static.amin(0).clamp(min=1e-300))
    static = torch.where(log, static.clamp(min=1e-300).log(), static)
    windows = windows_of(clock, clock.windows(1))
    states = places.started(((train.values - mean) / spread).float())
    inputs, signals = train.inputs.double(), train.signals.double()
    # Without a mean, an input that scales with the fields stays in proportion to them.
    input_mean = torch.zeros(inputs.shape[-1]) if by_run else inputs.mean((0, 1, 2))
    return Scales(
        mean=mean.float(),
        spread=spread.float(),
        input_mean=input_mean.float(),
        input_spread=_size((inputs - input_mean), (0, 1, 2)),
        signal_mean=signals.mean((0, 1)).float(),
        signal_spread=_size(signals - signals.mean((0, 1)), (0, 1)),
        static_mean=static.mean(0).float(),
        static_spread=_size(static - static.mean(0), (0,)),
        static_log=log,
        length=torch.tensor(usual_length(windows.lengths)),
        change=_changes(states, windows, by_run, clock),
        moving=torch.tensor(_moves(states, places.held)),
    )


def _size(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    size = values.pow(2).mean(dims).sqrt()
    return torch.where(size > 0, size, 1.0).float()


def _moves(states: Tensor, held: Tensor) -> bool:
    at = states[:, :, held]
    return bool(at.numel()) and float((at - at[:, :1]).abs().max()) > MOVES


def _changes(states: Tensor, windows: Windows, by_run: bool, clock: Clock) -> Tensor:
    """(intervals, r, C): root mean square of the increments to every state of an interval."""
    count = 1 if clock.even else clock.steps
    rank, c = clock.rank, states.shape[-1]
    found = torch.zeros(count, rank, c, dtype=torch.float64)
    weight = torch.zeros(count, 1, 1, dtype=torch.float64)
    for first, kind in zip(windows.first.tolist(), windows.kind.tolist(), strict=True):
        frames = torch.cat([torch.zeros(1, dtype=torch.int64), windows.frames[kind]])
        near = states[:, (frames + first).clamp(max=states.shape[1] - 1)]
        at = torch.einsum("xf,rfnc->rxnc", windows.fill[kind], near)
        step = at[:, 1:] - at[:, :1]
        step = step / amplitude(at[:, :1]) if by_run else step
        i = int(windows.interval[kind, 0])
        found[i] += step.double().pow(2).mean((0, 2))
        weight[i] += 1
    # The last interval may reach beyond the frames and so have no window of its own.
    whole = (found.sum(0, keepdim=True) / weight.sum()).sqrt()
    size = torch.where(weight > 0, (found / weight.clamp(min=1)).sqrt(), whole)
    return torch.where(size > 0, size, 1.0).float()


@dataclass(frozen=True)
class Prepared:
    """Coarse, normalised runs on a device.

    Args:
        states: (R, T, n, C), held values exact; windows begin there and are compared with them.
        inputs: (R, T, n, I). signals: (R, T, Z). static: (R, S). moving: As of `Scales`. length: As of `Scales`.
        root: (C, n, n), as of `Places`; None compares node by node.
        points: N, over which the squared error at all nodes is a mean.
    """

    states: Tensor
    inputs: Tensor
    signals: Tensor
    static: Tensor
    root: Tensor | None
    moving: bool
    length: float
    points: int

    def known(self, run: Tensor, kind: Tensor, frames: Tensor, windows: Windows) -> Known:
        """What is known of windows: run, kind (K, B), frames (K, B, F + 1)."""
        at = run[..., None]
        fill = windows.fill[kind]
        if self.moving:
            held = _filled(fill, self.states[at, frames])
        else:
            start = self.states[run, frames[..., 0]]
            held = start[:, :, None].expand(-1, -1, fill.shape[2], -1, -1)
        shape = (*held.shape[:3], held.shape[3], 0)
        inputs = _filled(fill, self.inputs[at, frames]) if self.inputs.shape[-1] else held.new_empty(shape)
        signals = fill @ self.signals[at, frames] if self.signals.shape[-1] else fill.new_empty(*fill.shape[:3], 0)
        lengths = (windows.lengths[kind] / self.length).log()
        return Known(held, inputs, signals, self.static[run], lengths, windows.interval[kind])

    def draw(self, index: Tensor, windows: Windows) -> tuple[Tensor, Known, Tensor, Tensor]:
        """Windows by number (K, B): start, known, targets (K, B, F + 1, n, C), kind (K, B)."""
        count = len(windows.first)
        run, window = index // count, index % count
        kind = windows.kind[window]
        first = windows.first[window][..., None]
        frames = torch.cat([first, first + windows.frames[kind]], -1)
        known = self.known(run, kind, frames, windows)
        start = self.states[run, frames[..., 0]]
        return start, known, self.states[run[..., None], frames], kind

    def nodal_loss(self, states: Tensor, targets: Tensor, fill: Tensor, by_run: bool) -> Tensor:
        """Mean squared error of every member at the coarse nodes and times alone, (K,).

        Args:
            states: (K, B, X, n, C). targets: (K, B, F + 1, n, C). fill: (K, B, X, F + 1).
        """
        cost = (states[:, :, 1:] - _filled(fill[:, :, 1:], targets)).pow(2).mean((-2, -1))
        return _scaled(cost, targets, by_run).mean((1, 2))

    def loss(self, states: Tensor, targets: Tensor, curve: Tensor, weights: Tensor, by_run: bool) -> Tensor:
        """Mean squared error of every member at all nodes and frames of the data, through both splines, (K,).

        Args:
            states: (K, B, X, n, C). targets: (K, B, F + 1, n, C). curve: (K, B, F, X). weights: (K, B, F).
        """
        error = _filled(curve, states) - targets[:, :, 1:]
        if self.root is not None:
            error = torch.einsum("cmn,kbfnc->kbfmc", self.root, error)
        cost = error.pow(2).sum((-2, -1)) / (self.points * error.shape[-1])
        return (_scaled(cost, targets, by_run) * weights).sum((1, 2)) / weights.sum((1, 2))


def _scaled(cost: Tensor, targets: Tensor, by_run: bool) -> Tensor:
    """Squared errors (K, B, F), of fields in units of their own size where that is asked for."""
    return cost / amplitude(targets[:, :, :1]).pow(2)[..., 0, 0] if by_run else cost


def _filled(maps: Tensor, values: Tensor) -> Tensor:
    """(K, B, S, X) times (K, B, X, n, C)."""
    return torch.unflatten(maps @ values.flatten(-2), -1, values.shape[-2:])


def prepare(runs: Runs, places: Places, scales: Scales, model: Mapping[str, Any], device: torch.device) -> Prepared:
    """Runs for training or a rollout on a device."""
    values = scales.fields(runs.values)
    # Splines afterwards: the network sees values at its nodes, not those whose spline is nearest to the data.
    states = places.sampled(values) if model["loss"] == "nodes" else places.started(values)
    static = runs.static.double()
    static = torch.where(scales.static_log, static.clamp(min=1e-300).log(), static)
    inputs = (places.sampled(runs.inputs) - scales.input_mean) / scales.input_spread
    return Prepared(
        states=states.to(device),
        inputs=inputs.to(device),
        signals=((runs.signals - scales.signal_mean) / scales.signal_spread).to(device),
        static=((static - scales.static_mean) / scales.static_spread).float().to(device),
        root=None if places.root is None else places.root.to(device),
        moving=bool(scales.moving),
        length=float(scales.length),
        points=len(places.nodes) if places.expand is None else len(places.expand),
    )
