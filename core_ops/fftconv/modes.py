"""Every mode as one window of a linear (or periodic) convolution, and what of the operands that window can see.

y[t] = sum_m k[m] u[start + t - m] for 0 <= t < outputs; with a period P the index of u is taken modulo P.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["causal", "full", "circular", "two_sided"]
MODES: tuple[str, ...] = get_args(Mode)


def window(mode: str, length: int, taps: int) -> tuple[int, int, int]:
    """(start, outputs, period) of a mode; period 0 means linear."""
    if mode == "causal":
        return 0, length, 0
    if mode == "full":
        return 0, length + taps - 1, 0
    if mode == "two_sided":
        return (taps - 1) // 2, length, 0
    return 0, length, length


@dataclass(frozen=True)
class Problem:
    """A linear convolution cut to what its window sees: y[o0 + t] = sum_m k[k0 + m] x[start + t - m].

    Args:
        pieces: (at, first, count): x[at : at + count] = u[first : first + count]; they cover x.
        lx: Samples of x. k0, k1: The taps used, after aliasing onto `alias` taps unless that is 0.
        start: First output within conv(x, k). o0, o1: The outputs that are not zero by construction.
        here: Where x holds u[0], counted from x[0]; u[t] is x[here + t].
    """

    pieces: tuple[tuple[int, int, int], ...]
    lx: int
    k0: int
    k1: int
    alias: int
    start: int
    o0: int
    o1: int
    here: int

    @property
    def taps(self) -> int:
        """Taps used."""
        return self.k1 - self.k0

    @property
    def outputs(self) -> int:
        """Outputs computed."""
        return self.o1 - self.o0

    @property
    def period(self) -> int:
        """The shortest cyclic or negacyclic period whose aliases stay out of the window."""
        return max(self.lx + self.taps - 1 - self.start, self.start + self.outputs, self.lx, self.taps)


def linear_problem(length: int, taps: int, start: int, outputs: int) -> Problem | None:
    """Cut operands and outputs to what takes part; None when every output is zero.

    Args:
        length: Samples of u. taps: Samples of k. start: First output of the window. outputs: Size of the window.
    """
    first, last = max(start, 0), min(start + outputs, length + taps - 1) - 1
    if first > last:
        return None
    k0, k1 = max(0, first - length + 1), min(taps - 1, last)
    u0, u1 = max(0, first - k1), min(length - 1, last - k0)
    pieces = ((0, u0, u1 + 1 - u0),)
    return Problem(pieces, u1 + 1 - u0, k0, k1 + 1, 0, first - k0 - u0, first - start, last - start + 1, -u0)


def periodic_problem(period: int, taps: int, start: int, outputs: int) -> Problem:
    """A periodic convolution as a linear one over u repeated; outputs <= period."""
    alias = period if taps > period else 0
    taps = min(taps, period)
    start %= period
    lx = outputs + taps - 1
    at, pieces = 0, []
    while at < lx:
        first = (start - taps + 1 + at) % period
        count = min(period - first, lx - at)
        pieces.append((at, first, count))
        at += count
    return Problem(tuple(pieces), lx, 0, taps, alias, taps - 1, 0, outputs, taps - 1 - start)


def problem_of(length: int, taps: int, start: int, outputs: int, period: int) -> Problem | None:
    """The problem of one window; None when every output is zero."""
    if period:
        return periodic_problem(period, taps, start, outputs)
    return linear_problem(length, taps, start, outputs)
