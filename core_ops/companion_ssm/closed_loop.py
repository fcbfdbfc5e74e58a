"""The closed loop of a companion system, x[t+1] = (A + b k^T) x[t]: kernels of its outputs.

Shapes: * any leading dimensions, d states, T horizon.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ..fftconv import fftconv
from .choice import all_pole
from .hankel import hankel, lower_toeplitz
from .rational import numerator, product, rows_of

# A matrix of d T terms is worth forming where d is less than this many times the states.
FEW = 4


def closed_loop_kernel(
    a: Float[Tensor, "*#h d"],
    b: Float[Tensor, "*#h d"],
    c: Float[Tensor, "*#h d"],
    k: Float[Tensor, "*#h d"],
    horizon: int,
) -> Float[Tensor, "*h d t"]:
    """Rows c^T M^t of the closed loop M = A + b k^T as columns: K[:, t] = (M^T)^t c.

    A system whose next input is k^T x gives y[t] = c^T M^t x = sum_i K[i, t] x[i], t = 0 the first step ahead. With
    c = k it gives the inputs themselves; leading dimensions broadcast, so c = stack([c, k]) gives both. For inputs from
    outside see closed_loop_response.

    Args:
        a, b, c, k: (*, d), float32 or float64.
        horizon: T >= 1.
    Returns: (*, d, T); float64 where an operand is.
    Complexity: O(d^2 T) a row, as one product of matrices, and O(T log T).
    Source: Zhang et al. 2023, "SpaceTime", arXiv:2303.09489, section 3.3.
    """
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype, c.dtype, k.dtype) else torch.float32
    (a, b, c, k), lead = rows_of(a, b, c, k)
    rows, d = a.shape
    loop, starts = closed_loop_rational(a, b, c, k)
    sequences = all_pole(starts.reshape(2 * rows, d)[:, :horizon], loop.repeat(2, 1), horizon, dtype == torch.float32)
    beta, alpha = sequences.reshape(2, rows, horizon)
    # K[i, t] = q[i + t] + sum_j k[i + j] beta[t - 1 - j], q = c, then alpha.
    q = hankel(torch.cat([c, alpha[:, : horizon - 1]], 1).to(dtype), horizon)
    past = hankel(pad(beta[:, : horizon - 1], (d, 0)).to(dtype), horizon)
    gain = hankel(pad(k, (0, d - 1)).to(dtype), d).flip(-1)
    return torch.baddbmm(q, gain, past).reshape(*lead, d, horizon)


def closed_loop_factors(
    a: Float[Tensor, "*#h d"],
    b: Float[Tensor, "*#h d"],
    c: Float[Tensor, "*#h d"],
    k: Float[Tensor, "*#h d"],
    horizon: int,
) -> tuple[Float[Tensor, "*h d m"], Float[Tensor, "*h t"]]:
    """The closed loop's kernel as a product: K[:, t] = sum_j N[:, j] g[t - j], g the terms of 1 / det(I - z M).

    Row i of N holds the numerator of the outputs from the state e_i, so `closed_loop_outputs` gives the outputs of
    states without forming K: less work where there are fewer states than d, and no horizon enters N.

    Args:
        a, b, c, k, horizon: As of closed_loop_kernel.
    Returns: N (*, d, m), m = min(d, T), and g (*, T); float64 where an operand is.
    Complexity: O(d^3) a row, as two products of matrices, and O(T log T).
    """
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype, c.dtype, k.dtype) else torch.float32
    (a, b, c, k), lead = rows_of(a, b, c, k)
    d = a.shape[1]
    m = min(d, horizon)
    loop = a.flip(1) + numerator(a, b, k)
    below = torch.cat([torch.ones_like(loop[:, :1]), -loop[:, : m - 1]], 1)
    first = closed_loop_kernel(a, b, c, k, m) @ lower_toeplitz(below).mT
    terms = all_pole(torch.ones_like(loop[:, :1]), loop, horizon, dtype == torch.float32)
    return first.to(dtype).reshape(*lead, d, m), terms.to(dtype).reshape(*lead, horizon)


def closed_loop_outputs(
    state: Float[Tensor, "*h b d"], first: Float[Tensor, "*h d m"], terms: Float[Tensor, "*h t"]
) -> Float[Tensor, "*h b t"]:
    """What a closed loop says from its states: c^T M^t x, t < T, of each state x.

    Args:
        state: (*, B, d), B states of each system. first, terms: From closed_loop_factors.
    Returns: (*, B, T).
    Complexity: O(B d (d + T)) a row, as two products of matrices; of few states O(B (d^2 + T log T)).
    """
    m, horizon = first.shape[-1], terms.shape[-1]
    if FEW * state.shape[-2] <= m:
        numerators = (state @ first).flatten(0, -3).transpose(0, 1)
        y = fftconv(pad(numerators, (0, horizon - m)), terms.reshape(-1, horizon).to(numerators.dtype))
        return y.transpose(0, 1).reshape(*state.shape[:-1], horizon)
    # Rows in the opposite order: g[t - (m - 1 - j)] are the padded terms in order.
    shifted = hankel(pad(terms, (m - 1, 0)), horizon)
    return (state @ first.flip(-1)) @ shifted


def closed_loop_rational(a: Tensor, b: Tensor, c: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The loop's recurrence p (R, d) and the numerators (2, R, d) of c^T M^t b and c^T M^t a.

    With N_cb the open loop's numerator, det(I - z M) = 1 - sum_j p[j] z^j = D - z N_kb and c^T (I - z M)^{-1} b =
    N_cb / (D - z N_kb). For another start v the numerator is N_cv - z (N_cv N_kb - N_cb N_kv) / D: no rest is left.
    """
    d = a.shape[1]
    n_cb, n_ca, n_kb, n_ka = numerator(a.repeat(4, 1), torch.cat([b, a, b, a]), torch.cat([c, c, k, k])).reshape(
        4, *a.shape
    )
    loop = a.flip(1) + n_kb
    if d == 1:
        return loop, torch.stack([n_cb, n_ca])
    terms = d - 1
    cross = product(n_ca, n_kb, terms) - product(n_cb, n_ka, terms)
    quotient = all_pole(cross, a.flip(1), terms, False)
    return loop, torch.stack([n_cb, n_ca - pad(quotient, (1, 0))])


def loop_coefficients(
    a: Float[Tensor, "*#h d"], b: Float[Tensor, "*#h d"], k: Float[Tensor, "*#h d"]
) -> Float[Tensor, "*h d"]:
    """The companion system with the loop's poles: coefficients m of det(x - A - b k^T) = x^d - sum_i m[i] x^i.

    Args:
        a, b, k: (*, d); leading dimensions broadcast.
    Returns: (*, d), float64: what `poles` and `certify` take.
    """
    (a, b, k), lead = rows_of(a, b, k)
    return (a + numerator(a, b, k).flip(1)).reshape(*lead, -1)


def closed_loop_response(kernel: Float[Tensor, "*h d t"], e: Float[Tensor, "*#h d q"]) -> Float[Tensor, "*h q t"]:
    """Response to an outside input z, r[t] = c^T M^t e: x[t+1] = M x[t] + e z[t] adds sum_{s<t} r[t-1-s] z[s] to y[t].

    Args:
        kernel: (*, d, T), from closed_loop_kernel. e: (*, d, Q), one column an input.
    Returns: (*, Q, T).
    """
    return e.mT @ kernel
