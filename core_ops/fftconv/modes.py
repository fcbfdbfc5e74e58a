"""Every mode as one window of a linear (or periodic) convolution, and what of the operands that window can see.

y[t] = sum_m k[m] u[start + t - m] for 0 <= t < length; with a period P the index of u is taken modulo P.
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
class Trim:
    """The part of a linear convolution that a window sees.

    Args:
        u0: First input used. u1: One past the last. k0, k1: The same of the filter.
        start: The window's first output within conv(u[u0:u1], k[k0:k1]).
        o0: First output that is not zero by construction. o1: One past the last.
    """

    u0: int
    u1: int
    k0: int
    k1: int
    start: int
    o0: int
    o1: int

    @property
    def outputs(self) -> int:
        """How many outputs are computed."""
        return self.o1 - self.o0

    @property
    def period(self) -> int:
        """The shortest (nega)cyclic period that leaves the window free of aliases."""
        lu, lk = self.u1 - self.u0, self.k1 - self.k0
        return max(lu + lk - 1 - self.start, self.start + self.outputs, lu, lk)


def trim(length: int, taps: int, start: int, outputs: int) -> Trim | None:
    """Cut operands and outputs to what takes part; None when every output is zero.

    Args:
        length: Samples of u. taps: Samples of k. start: First output of the window. outputs: Size of the window.
    """
    first, last = max(start, 0), min(start + outputs, length + taps - 1) - 1
    if first > last:
        return None
    k0, k1 = max(0, first - length + 1), min(taps - 1, last)
    u0, u1 = max(0, first - k1), min(length - 1, last - k0)
    return Trim(u0, u1 + 1, k0, k1 + 1, first - k0 - u0, first - start, last - start + 1)
