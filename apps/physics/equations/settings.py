"""Checks of an equation's settings, and the random smooth fields that runs start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.apps.training import UserError

Array = NDArray[np.float64]
# Told the share of a run that is done, 0 to 1.
Advance = Callable[[float], None]


def number(name: str, value: Any, least: float = -np.inf, *, above: bool = False) -> float:
    """A finite number, at least (or above) a bound.

    Raises: UserError: it is not.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    if not good or value < least or (above and value == least):
        bound = "" if least == -np.inf else f" {'above' if above else 'of at least'} {least:g}"
        raise UserError(f"equation.{name}={value}: a number{bound} is accepted")
    return float(value)


def whole(name: str, value: Any, least: int, most: int = 2**31) -> int:
    """A whole number between bounds.

    Raises: UserError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UserError(f"equation.{name}={value}: a whole number from {least} to {most} is accepted")
    return value


def numbers(name: str, value: Any, count: int, least: float = -np.inf, *, above: bool = False) -> tuple[float, ...]:
    """So many numbers.

    Raises: UserError: they are not.
    """
    if not isinstance(value, list | tuple) or len(value) != count:
        raise UserError(f"equation.{name}={value}: a list of {count} numbers is accepted")
    return tuple(number(name, v, least, above=above) for v in value)


def choice(name: str, value: Any, accepted: tuple[str, ...]) -> str:
    """One of some words.

    Raises: UserError: another one.
    """
    if value not in accepted:
        raise UserError(f"equation.{name}={value}: {', '.join(accepted)} are accepted")
    return str(value)


def frame_times(duration: Any, frames: Any) -> Array:
    """Times of the frames, from 0 to the duration, both included."""
    return np.linspace(0, number("duration", duration, 0, above=True), whole("frames", frames, 2))


def grid(length: tuple[float, ...], cells: tuple[int, ...], *, periodic: bool = False) -> Array:
    """Nodes (N, D) of a grid with so many cells, the last axis fastest; a periodic one leaves the far ends out."""
    axes = [
        np.linspace(0, side, n + (not periodic), endpoint=not periodic) for side, n in zip(length, cells, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def random_weights(rng: np.random.Generator, modes: int) -> Array:
    """Weights (modes, modes) of product modes 1, 2, ...; their spread falls as 1 / (k^2 + l^2)."""
    k = np.arange(1, modes + 1)
    return rng.standard_normal((modes, modes)) * 2 / (k[:, None] ** 2 + k[None] ** 2)


def initial_shape(
    kind: str, rng: np.random.Generator, nodes: Array, length: tuple[float, float], modes: int, wave: str
) -> Array:
    """A field (N,) with greatest magnitude 1 on the nodes.

    Args:
        kind: random (product modes up to `modes` with random weights), bump (a Gaussian at a random place), mode (the
            product mode number `modes` of each axis).
        wave: sin (zero on the boundary) or cos (no flux through it).
    """
    function = np.sin if wave == "sin" else np.cos
    phase = np.pi * nodes / np.array(length)
    if kind == "mode":
        found = function(modes * phase[:, 0]) * function(modes * phase[:, 1])
    elif kind == "bump":
        centre = rng.uniform(0.25, 0.75, 2) * np.array(length)
        width = rng.uniform(0.05, 0.12) * min(length)
        # Mirror images beyond the sides make the value (sin) or the flux (cos) vanish there.
        sign = -1 if wave == "sin" else 1
        images = ((centre, 1), (-centre, sign), (2 * np.array(length) - centre, sign))
        found = np.prod(sum(s * np.exp(-((nodes - c) ** 2) / (2 * width**2)) for c, s in images), axis=1)
    else:
        k = np.arange(1, modes + 1)
        x, y = (function(k * phase[:, d, None]) for d in range(2))
        found = np.einsum("nk,kl,nl->n", x, random_weights(rng, modes), y)
    return np.asarray(found / np.abs(found).max())
