"""Companion systems as rational functions: numerators by polynomial products, terms by power-series division.

Shapes: R rows, d states. With z the delay, sum_l z^l c^T A^l b = N(z) / D(z), D(z) = 1 - sum_{i<d} a[i] z^{d-i}.
"""

import torch
from torch import Tensor
from torch.fft import irfft, rfft
from torch.nn.functional import pad

from ..fftconv.plans import smooth_size


def rows_of(*operands: Tensor) -> tuple[list[Tensor], torch.Size]:
    """Operands (*, d) broadcast and as contiguous rows (R, d) in float64, and the leading dimensions *."""
    alike = torch.broadcast_tensors(*operands)  # type: ignore[no-untyped-call]
    return [x.reshape(-1, x.shape[-1]).double() for x in alike], alike[0].shape[:-1]


def denominator(a: Tensor) -> Tensor:
    """D's terms below z^d: (1, -a[d-1], ..., -a[1]), shape (R, d)."""
    return torch.cat([torch.ones_like(a[:, :1]), -a[:, 1:].flip(1)], 1)


def numerator(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """N, of degree below d.

    With the last component g[l] = e_d^T A^l b = [z^l] b~/D, b~ the reversed b, and the shift S,
    A^l b = S^l b + sum_m S^{l-1-m} a g[m]. So N = (c * b) D + z (c * a) b~ modulo z^d, (c * b)[j] = sum_i c[i] b[i-j].

    Args:
        a, b, c: (R, d), float64.
    Returns: (R, d).
    Complexity: O(R d log d).
    """
    d = a.shape[1]
    size = smooth_size(2 * d)
    a_hat, b_hat, c_hat = rfft(torch.stack([a, b, c]), n=size)
    products = irfft(c_hat * torch.stack([b_hat, a_hat]).conj(), n=size)[..., :d]
    factors = torch.stack([products[0], pad(products[1, :, :-1], (1, 0)), denominator(a), b.flip(1)])
    cb, ca, below, reversed_b = rfft(factors, n=size)
    terms: Tensor = irfft(cb * below + ca * reversed_b, n=size)
    return terms[:, :d]


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
