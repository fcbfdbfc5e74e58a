"""Companion systems as rational functions: numerators by polynomial products, terms by power-series division.

Shapes: R rows, d states. With z the delay, sum_l z^l c^T A^l b = N(z) / D(z), D(z) = 1 - sum_{i<d} a[i] z^{d-i}.
"""

import torch
from torch import Tensor
from torch.fft import irfft, rfft
from torch.nn.functional import pad

from ..fftconv.plans import smooth_size


def broadcast_rows(*operands: Tensor) -> tuple[list[Tensor], torch.Size]:
    """Operands (*, d) broadcast and as rows (R, d), and the leading dimensions *."""
    alike = torch.broadcast_tensors(*operands)  # type: ignore[no-untyped-call]
    return [x.reshape(-1, x.shape[-1]) for x in alike], alike[0].shape[:-1]


def rows_of(*operands: Tensor) -> tuple[list[Tensor], torch.Size]:
    """broadcast_rows in float64."""
    rows, lead = broadcast_rows(*operands)
    return [x.double() for x in rows], lead


def numerator(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """N, of degree below d.

    With the last component g[l] = e_d^T A^l b = [z^l] b~/D, b~ the reversed b, and the shift S,
    A^l b = S^l b + sum_m S^{l-1-m} a g[m]. So N = p D + z q b~ modulo z^d, p[j] = sum_i c[i] b[i-j], q likewise of a.
    b~ and D are reversed vectors, so these products are correlations at negative lags: N[j] = p[j] + r[j - d],
    r[-j] = sum_i q[i] b[i+j] - p[i] a[i+j].

    Args:
        a, b, c: (R, d), float64.
    Returns: (R, d).
    Complexity: O(R d log d): eight FFTs of length 2 d.
    """
    d = a.shape[1]
    size = smooth_size(2 * d)
    a_hat, b_hat, c_hat = rfft(torch.stack([a, b, c]), n=size)
    backwards = torch.stack([b_hat, a_hat]).conj_physical_()
    products = irfft(c_hat * backwards, n=size)[..., :d]
    p_hat, q_hat = rfft(products, n=size)
    r: Tensor = irfft(q_hat * backwards[0] - p_hat * backwards[1], n=size)
    n: Tensor = products[0] + r[:, size - d :]
    return n


def product(x: Tensor, y: Tensor, terms: int) -> Tensor:
    """x y modulo z^terms, (R, terms)."""
    size = smooth_size(x.shape[1] + y.shape[1])
    whole: Tensor = irfft(rfft(x, n=size) * rfft(y, n=size), n=size)
    return whole[:, :terms]


def aliased_kernel(num: Tensor, den: Tensor, h0: Tensor, length: int, period: int) -> Tensor:
    """h0 at tap 0 plus sum_m k[t + m period], k the terms of num / den: their ratio at `period` roots of unity.

    Args:
        num, den: (*, N), N < period, coefficients from z^1. h0: (*). length: At most period.
    Returns: (*, length).
    """
    above, below = pad(num, (1, 0)), torch.cat([torch.ones_like(den[..., :1]), den], -1)
    k: Tensor = irfft(rfft(above, n=period) / rfft(below, n=period), n=period)[..., :length]
    return k + pad(h0[..., None], (0, length - 1))
