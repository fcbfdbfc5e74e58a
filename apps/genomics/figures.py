"""Figures of a training run: loss curve, likelihood and GC along a long window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from farfield.apps.training import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss_figure(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], levels: Mapping[str, float]) -> Figure:
    """Bits per base against tokens read; `curves` maps a label to (tokens, bits), `levels` draws horizontal lines."""
    figure = _figure(3.4)
    axes = figure.subplots()
    for label, (tokens, bits) in curves.items():
        axes.plot(tokens, bits, label=label, marker="." if len(bits) < 50 else None, linewidth=1)
    for i, (label, bits_per_base) in enumerate(levels.items()):
        axes.axhline(bits_per_base, linestyle="--", linewidth=0.8, color=f"C{len(curves) + i}", label=label)
    axes.set(xlabel="bases read in training", ylabel="bits per base")
    if levels:
        # The first steps, far above the worst baseline, would flatten everything else.
        axes.set_ylim(top=max(levels.values()) + 0.05)
    axes.legend(fontsize="small")
    return figure


def window_figure(
    bits: NDArray[np.float32], gc: NDArray[np.bool_], start: int, held_out: int, bins: int = 512
) -> Figure:
    """Means of bits per base and of GC along one window.

    Args:
        bits: -log2 p of each base (L,), NaN where a base is not scored.
        gc: True where the base is G or C (L,).
        start: Position of the window's first base in its sequence.
        held_out: First position that training never saw.
        bins: Number of points drawn.
    """
    figure = _figure(4.6)
    axes, share = figure.subplots(2, sharex=True)
    edges = np.linspace(0, len(bits), min(bins, len(bits)) + 1).astype(int)
    middle = start + (edges[1:] + edges[:-1]) / 2
    axes.plot(middle, [np.nanmean(bits[a:b]) for a, b in pairwise(edges)], linewidth=0.8, label="bits per base")
    share.plot(middle, [gc[a:b].mean() for a, b in pairwise(edges)], linewidth=0.8, color="C1")
    axes.set_ylabel("bits per base")
    share.set(xlabel="position (bases)", ylabel="GC share")
    if start < held_out < start + len(bits):
        axes.axvspan(held_out, start + len(bits), alpha=0.15, label="never seen in training")
    axes.legend(fontsize="small", loc="lower left")
    return figure


def _figure(height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("figures need the package matplotlib: pip install 'farfield[plots]'") from error
    return Figure(figsize=(9, height), layout="constrained")
