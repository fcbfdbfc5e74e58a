"""When a network looks: coarse times, the curve between them, and windows of a few intervals.

Shapes: T frames, W intervals of a window, r values an interval (the Gauss points in time and its end), X = 1 + W r
states of a window, F frames of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farfield.apps.physics.adaptive import pays, some, time_frames
from farfield.apps.physics.runs import Runs
from farfield.apps.training import UserError
from farfield.core_ops.spline_collocation import SplineCollocation


@dataclass(frozen=True)
class Clock:
    """Coarse times: intervals between frames, and the curve in each.

    Args:
        times: (T,) of the frames. knots: (M + 1,) numbers of frames where intervals meet, beyond the last frame where
            the last interval is not over. order: Degree of the curve; 1 has no points inside an interval.
        even: Whether all intervals are alike, so that a window may begin at any frame.
    """

    times: np.ndarray
    knots: tuple[int, ...]
    order: int
    even: bool

    @property
    def rank(self) -> int:
        """r: values that a step gives."""
        return max(1, self.order)

    @property
    def steps(self) -> int:
        """M: calls of the network for all frames."""
        return len(self.knots) - 1

    def at(self, frame: int) -> float:
        """Time of a frame; those after the last go on with its step."""
        over = frame - (len(self.times) - 1)
        return float(self.times[min(frame, len(self.times) - 1)] + max(0, over) * (self.times[-1] - self.times[-2]))

    def windows(self, count: int, everywhere: bool = True) -> list[tuple[int, ...]]:
        """Knots of all windows of `count` intervals within the frames.

        Raises: UserError: none fits.
        """
        last = len(self.times) - 1
        if self.even and everywhere:
            step = self.knots[1] - self.knots[0]
            found = [tuple(f + step * i for i in range(count + 1)) for f in range(last - count * step + 1)]
        else:
            full = [self.knots[i : i + count + 1] for i in range(self.steps - count + 1)]
            found = [w for w in full if w[-1] <= last]
        if not found:
            raise UserError(
                f"trainer.unroll={count}: no window of {count} intervals fits into {len(self.times)} frames; take fewer"
                " intervals, a smaller model.stride, or longer runs"
            )
        return found


def clock_of(train: Runs, model: Mapping[str, Any]) -> Clock:
    """Coarse times for some runs.

    Raises: UserError: a setting does not fit.
    """
    stride, order, frames = int(model["stride"]), int(model["order_time"]), len(train.times)
    if not 1 <= stride < frames:
        raise UserError(f"model.stride={stride}: 1 to {frames - 1} frames are accepted")
    if order not in range(1, 9):
        raise UserError(f"model.order_time={order}: 1 (straight lines) to 8 are accepted")
    steps = -(-(frames - 1) // stride)
    even = tuple(stride * i for i in range(steps + 1))
    gaps = np.diff(train.times)
    plain = Clock(train.times, even, order, bool(np.ptp(gaps) <= 1e-6 * gaps.max()))
    knots = time_frames(train, steps, order) if model["adapt_time"] else None
    if knots is None:
        return plain
    adapted = Clock(train.times, knots, order, False)
    return adapted if pays(curve_error(adapted, train), curve_error(plain, train)) else plain


def curve_error(clock: Clock, train: Runs) -> float:
    """Mean squared error of the curves through the runs' own values at the coarse times, in units of their spread."""
    fill = windows_of(clock, [clock.knots]).fill[0][:, : len(train.times)]
    through = torch.from_numpy(curve_matrix(clock, clock.knots, train.times)).float() @ fill
    values = some(train).flatten(2)
    return float((through @ values - values).pow(2).mean())


@dataclass(frozen=True)
class Windows:
    """Windows of one length with their fixed maps; kinds are windows that differ by more than their start.

    Args:
        first: (S,) first frame. kind: (S,) index into the maps. frames: (kinds, F) after the first frame. weights:
            (kinds, F), 0 where padded. curve: (kinds, F, X) float32: the spline in time, and the ends of intervals
            themselves. slope: (kinds, F, X): its rate of change, 0 for those ends. fill: (kinds, X, F + 1): data at
            the coarse times. lengths: (kinds, W). interval: (kinds, W): which scale of change an interval has.
    """

    first: Tensor
    kind: Tensor
    frames: Tensor
    weights: Tensor
    curve: Tensor
    slope: Tensor
    fill: Tensor
    lengths: Tensor
    interval: Tensor

    def to(self, device: torch.device) -> Windows:
        """The windows on a device."""
        return Windows(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def windows_of(clock: Clock, knots: Sequence[tuple[int, ...]]) -> Windows:
    """The maps of windows given by the frames of their knots."""
    kinds: dict[tuple[Any, ...], int] = {}
    first, kind, tables = [], [], []
    for window in knots:
        interval = [0 if clock.even else clock.knots.index(k) for k in window[:-1]]
        times = np.array([clock.at(f) for f in range(window[0], window[-1] + 1)]) - clock.at(window[0])
        key = (tuple(np.array(window) - window[0]), tuple(interval), tuple(np.round(times / times[-1], 9)))
        if key not in kinds:
            kinds[key] = len(kinds)
            tables.append(_table(clock, window, times, interval))
        first.append(window[0])
        kind.append(kinds[key])
    most = max(len(t["weights"]) for t in tables)

    def padded(name: str, axis: int) -> Tensor:
        found = []
        for t in tables:
            lack = most - len(t["weights"])
            widths = [(0, 0)] * t[name].ndim
            widths[axis] = (0, lack)
            found.append(np.pad(t[name], widths, mode="edge" if name == "frames" else "constant"))
        return torch.from_numpy(np.stack(found))

    return Windows(
        torch.tensor(first),
        torch.tensor(kind),
        padded("frames", 0),
        padded("weights", 0).float(),
        padded("curve", 0).float(),
        padded("slope", 0).float(),
        padded("fill", 1).float(),
        torch.from_numpy(np.stack([t["lengths"] for t in tables])).float(),
        torch.from_numpy(np.stack([t["interval"] for t in tables])),
    )


def state_times(clock: Clock, window: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Times of the X states of a window, and which of them the curve goes through."""
    ends = np.array([clock.at(f) for f in window])
    if clock.order == 1:
        return ends, np.ones(len(ends), bool)
    inner = SplineCollocation(torch.from_numpy(ends), clock.order).points.reshape(len(ends) - 1, -1).numpy()
    times = np.concatenate([ends[:1], np.concatenate([inner, ends[1:, None]], axis=1).ravel()])
    through = np.ones(len(times), bool)
    through[clock.rank : -1 : clock.rank] = False
    return times, through


def curve_matrix(clock: Clock, window: Sequence[int], times: np.ndarray, derivative: int = 0) -> np.ndarray:
    """(S, X): the curve at times, or its rate of change, from the states of a window."""
    ends = np.array([clock.at(f) for f in window])
    _, through = state_times(clock, window)
    found = np.zeros((len(times), len(through)))
    if clock.order == 1:
        for i, t in enumerate(times):
            k = min(int(np.searchsorted(ends, t, side="right")) - 1, len(ends) - 2)
            width = ends[k + 1] - ends[k]
            share = (t - ends[k]) / width
            found[i, k], found[i, k + 1] = (-1 / width, 1 / width) if derivative else (1 - share, share)
        return found
    spline = SplineCollocation(torch.from_numpy(ends), clock.order)
    inside = torch.from_numpy(np.clip(times, ends[0], ends[-1]))
    found[:, through] = spline.operator(inside, derivative).numpy()
    return found


def _table(clock: Clock, window: tuple[int, ...], times: np.ndarray, interval: list[int]) -> dict[str, np.ndarray]:
    start = clock.at(window[0])
    states, _ = state_times(clock, window)
    frames = np.arange(1, len(times))
    curve = curve_matrix(clock, window, times[1:] + start)
    slope = curve_matrix(clock, window, times[1:] + start, 1)
    inner = np.array(window[1:-1], dtype=int) - window[0]
    if clock.order > 1 and len(inner):
        # The curve does not pass through the ends of inner intervals: they are compared with the data themselves.
        own = np.zeros((len(inner), len(states)))
        own[np.arange(len(inner)), clock.rank * np.arange(1, len(inner) + 1)] = 1
        curve, frames = np.concatenate([curve, own]), np.concatenate([frames, inner])
        slope = np.concatenate([slope, 0 * own])
    inside = np.isin(frames + window[0], np.arange(len(clock.times))).astype(float)
    known = np.array([clock.at(f) for f in range(window[0], min(window[-1], len(clock.times) - 1) + 1)])
    fill = np.zeros((len(states), len(frames) + 1))
    fill[:, : len(known)] = fill_matrix(known, np.clip(states, known[0], known[-1]))
    lengths = np.diff([clock.at(f) for f in window])
    frames = np.minimum(frames, len(clock.times) - 1 - window[0])
    table = {"frames": frames, "weights": inside, "curve": curve, "slope": slope, "fill": fill}
    return table | {"lengths": lengths, "interval": np.array(interval)}


def fill_matrix(known: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(S, T): a cubic through values at known times, or of lower degree through few, at other times."""
    from scipy.interpolate import make_interp_spline

    if len(known) == 1:
        return np.ones((len(times), 1))
    return np.asarray(make_interp_spline(known, np.eye(len(known)), k=min(3, len(known) - 1))(times))
