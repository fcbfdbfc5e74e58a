"""What a prediction starts from: a case with other parameters, or for longer than the training runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from farfield.apps.physics.case import Case, Quantity
from farfield.apps.physics.clock import Clock
from farfield.apps.physics.runs import Runs
from farfield.apps.training import UserError


def longer(clock: Clock, times: np.ndarray) -> Clock:
    """The clock with more intervals, as long as the last one, until all times are reached."""
    knots = list(clock.knots)
    stride = knots[-1] - knots[-2]
    while knots[-1] < len(times) - 1:
        knots.append(knots[-1] + stride)
    return Clock(times, tuple(knots), clock.order, clock.even)


def as_long(case: Case, like: Runs, times: np.ndarray | None) -> Case:
    """The case at the frames of the training runs, and on to later times with the last frame's boundary and inputs."""
    step = float(like.times[-1] - like.times[-2])
    frames = list(like.times)
    until = 0.0 if times is None else float(np.max(times)) - float(case.times[0])
    while frames[-1] < until - 1e-9 * max(1.0, abs(until)):
        frames.append(frames[-1] + step)
    wanted = np.array(frames) + float(case.times[0])
    if len(case.times) == len(wanted) and np.allclose(case.times, wanted, rtol=0, atol=1e-6 * step):
        return case
    known = case.times
    reader = case.reader

    def at(name: str, index: np.ndarray) -> np.ndarray:
        asked = wanted[index]
        after = (
            np.clip(np.searchsorted(known, asked), 1, len(known) - 1) if len(known) > 1 else np.zeros(len(asked), int)
        )
        before = np.maximum(after - 1, 0)
        gap = np.where(after > before, known[after] - known[before], 1.0)
        share = np.clip((asked - known[before]) / gap, 0, 1)[:, None, None] if len(known) > 1 else np.zeros((1, 1, 1))
        need, place = np.unique(np.concatenate([before, after]), return_inverse=True)
        values = reader(name, need.astype(np.int64))
        half = len(before)
        return np.asarray((1 - share) * values[place[:half]] + share * values[place[half:]])

    signals = {n: (np.interp(wanted, known, v), u) for n, (v, u) in case.signals.items()}
    return replace(case, times=wanted, reader=at, signals=signals)


def with_static(case: Case, static: Mapping[str, float], like: Runs) -> Case:
    """The case with parameters replaced.

    Raises: UserError: a parameter that the network was not given.
    """
    for name in static:
        if name not in like.static_names:
            raise UserError(
                f"static: {name!r} is no parameter of this network; it has {', '.join(like.static_names) or 'none'}"
            )
    given = {n: Quantity(float(v), like.units.get(n)) for n, v in static.items()}
    return replace(case, static={**case.static, **given})
