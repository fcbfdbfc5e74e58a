"""Division of power series, y = x / D with D(z) = 1 - sum_{j=1}^{d} p[j] z^j, in float64.

It is the recurrence y[t] = x[t] + sum_j p[j] y[t - j]. Shapes: x (R, n), p (R, d), y (R, L); R rows.
"""

import math

import torch
from torch import Tensor
from torch.fft import irfft, rfft
from torch.nn.functional import pad

from ..fftconv.plans import smooth_size

# Terms of 1 / D that the recurrence gives one by one before Newton's iteration doubles them.
FIRST = 16
# Blocks of this part of the length, within these bounds.
PARTS, LEAST, MOST = 4, 64, 4096
# Without a certificate, the sum of |1 / D| |D| over a block may be this much: an FFT's error is relative to it, and
# what it leaves in a block goes on into the next.
GROWTH = 4e3
# On a circle of radius r, r^P = ALIAS: what the FFT's period brings back, relative to the largest entry.
ALIAS = 1e-8
# The period by the length: rounding, which the length adds to, grows by ALIAS^(-length / period).
SHORT, TIGHT, WIDE = 2048, 1.05, 1.25


def divide(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """The first `length` terms of x / D.

    Args:
        x: Numerator (R, n). p: (R, d). length: L.
        single: Whether an error of 3e-8 of the largest entry is enough: allows the circle.
    Returns: (R, L).
    Complexity: O(R L log L), for any d.
    """
    x, p = x[:, :length], p[:, : max(length - 1, 1)]
    if length <= FIRST:
        return recur(x, p, length)
    norm = p.abs().sum(-1).amax().item() if p.shape[0] else 0.0
    # Terms grow by at most e^2 within the longest period, so do aliases.
    certified = norm <= 1 + 2 / (1.5 * length + 2)
    return on_circle(x, p, length) if single and certified else in_blocks(x, p, length, certified)


def recur(x: Tensor, p: Tensor, length: int) -> Tensor:
    """The recurrence itself, step by step."""
    d = p.shape[1]
    y = pad(x, (0, length - x.shape[1]))
    turned = p.flip(1)
    for t in range(1, length):
        m = min(t, d)
        y[:, t] += (turned[:, d - m :] * y[:, t - m : t]).sum(1)
    return y


def on_circle(x: Tensor, p: Tensor, length: int) -> Tensor:
    """x / D at P points of the circle |z| = r < 1, where |D| >= 1 - r, and one inverse FFT.

    The terms come out as r^t y[t] + r^P r^t y[t + P] + ..., so aliases are ALIAS times a later term. Valid where no
    term grows: sum |p| <= 1, poles of modulus 1 included.
    """
    size = smooth_size(math.ceil((TIGHT if length <= SHORT else WIDE) * length))
    power = torch.arange(size, dtype=p.dtype, device=p.device) * (math.log(ALIAS) / size)
    scale = power.exp()
    below = pad(p * -scale[1 : p.shape[1] + 1], (1, 0), value=1.0)
    ratio = rfft(x * scale[: x.shape[1]], n=size).div_(rfft(below, n=size))
    damped: Tensor = irfft(ratio, n=size)
    return damped[:, :length] * (-power[:length]).exp()


def in_blocks(x: Tensor, p: Tensor, length: int, certified: bool) -> Tensor:
    """The recurrence in blocks of s: from the last d terms to the next s, y = G r, G = 1 / D modulo z^s.

    r is x plus what the past adds, sum_{j > i} p[j] y[t0 + i - j] for i < min(s, d). Exact for any poles.
    """
    rows, d = p.shape
    wanted = smooth_power(min(max(length // PARTS, d // 2, LEAST), MOST))
    g = inverse(p, min(wanted, smooth_power(length)), certified)
    s = g.shape[1]
    if s < FIRST:
        return recur(x, p, length)
    reach = min(s, d)
    past_size, size = smooth_size(max(d + reach, 2)), 2 * s
    p_hat = rfft(pad(p, (1, 0)), n=past_size)
    g_hat = rfft(g, n=size)
    y = p.new_empty(rows, length)
    for t0 in range(0, length, s):
        count = min(s, length - t0)
        r = p.new_zeros(rows, s)
        given = x[:, t0 : t0 + count]
        r[:, : given.shape[1]] = given
        if t0:
            held = min(t0, d)
            added = irfft(rfft(y[:, t0 - held : t0], n=past_size).mul_(p_hat), n=past_size)
            r[:, :reach] += added[:, held : held + reach]
        y[:, t0 : t0 + count] = irfft(rfft(r, n=size).mul_(g_hat), n=size)[:, :count]
    return y


def smooth_power(least: int) -> int:
    """FIRST times a power of two, >= least."""
    return FIRST << max(0, math.ceil(math.log2(least / FIRST)))


def inverse(p: Tensor, length: int, certified: bool) -> Tensor:
    """G = 1 / D modulo z^s by Newton's iteration, G <- G - G (D G - 1), s doubling.

    Returns: (R, s), s = length, or less where GROWTH says so, down to 1; length is FIRST times a power of two.
    """
    one = p.new_ones(p.shape[0], 1)
    below = torch.cat([one, -p], 1)
    most = GROWTH / below.abs().sum(1)
    g = recur(one, p, FIRST)
    # not <: NaN and inf stop as well.
    if not certified and not bool((g.abs().sum(1) < most).all()):
        return one
    while g.shape[1] < length:
        m = g.shape[1]
        g_hat = rfft(g, n=2 * m)
        # The cyclic product of period 2m leaves its terms m to 2m - 1 clean.
        wrong = irfft(rfft(below[:, : 2 * m], n=2 * m).mul_(g_hat), n=2 * m)[:, m:]
        g = torch.cat([g, -irfft(rfft(wrong, n=2 * m).mul_(g_hat), n=2 * m)[:, :m]], 1)
        if not certified and not bool((g.abs().sum(1) < most).all()):
            return g[:, :m]
    return g
