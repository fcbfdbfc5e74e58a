"""States: Krylov columns A^l b, the state after a window of inputs, powers of A applied to a state.

Shapes: * any leading dimensions, B batch, H channels, n inputs, d states, L length.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from .choice import all_pole
from .hankel import hankel, lower_toeplitz
from .rational import product, rows_of


def last_component(a: Tensor, b: Tensor, length: int, single: bool) -> Tensor:
    """g[l] = e_d^T A^l b, l < length: the terms of b~/D, b~ the reversed b. (R, d) to (R, L), float64."""
    return all_pole(b.flip(1)[:, :length], a.flip(1), length, single)


def krylov(a: Float[Tensor, "*#h d"], b: Float[Tensor, "*#h d"], length: int) -> Float[Tensor, "*h d l"]:
    """Krylov columns A^l b, l < length.

    (A^l b)[i] = b[i - l] + sum_{j <= i} a[i - j] g[l - 1 - j], g[l] = e_d^T A^l b.

    Args:
        a, b: (*, d), float32 or float64; leading dimensions broadcast.
    Returns: (*, d, L); float64 where an operand is.
    Complexity: O(d^2 L) a row, as one product of matrices.
    """
    dtype = torch.promote_types(a.dtype, b.dtype)
    (a, b), lead = rows_of(a, b)
    d = a.shape[1]
    g = last_component(a, b, length, dtype == torch.float32).to(dtype)
    past = hankel(pad(g[:, : length - 1], (d, 0)), length)
    columns = hankel(pad(a, (d - 1, 0)).to(dtype), d) @ past
    within = min(d, length)
    columns[:, :, :within] += lower_toeplitz(b)[:, :, :within].to(dtype)
    return columns.reshape(*lead, d, length)


def last_state(u: Float[Tensor, "b h n"], a: Float[Tensor, "h d"], b: Float[Tensor, "h d"]) -> Float[Tensor, "b h d"]:
    """The state after a window of inputs, x = sum_{i < n} A^{n-1-i} b u[i], from zero.

    Only the last component xi[t] of the past d states is summed, xi[n-1-j] = sum_q g[q-1-j] u[n-1-q]; then
    x[i] = sum_{j <= i} a[i-j] xi[n-1-j] + b[i-j] u[n-1-j].

    Args:
        u: (B, H, n), float32 or float64, any strides. a, b: (H, d).
    Returns: (B, H, d) in the dtype of u.
    Complexity: O(B H d (n + 2 d)), as three batched products of matrices.
    """
    n, d, dtype = u.shape[-1], a.shape[-1], u.dtype
    u = u.transpose(0, 1)
    a64, b64 = a.double(), b.double()
    state = u[..., max(0, n - d) :].flip(-1) @ lower_toeplitz(b64).to(dtype)[:, :, : min(n, d)].mT
    if n > 1:
        g = last_component(a64, b64, n - 1, dtype == torch.float32).to(dtype)
        # Rows j, columns t: g[n - 2 - t - j].
        spread = hankel(pad(g.flip(-1), (0, d)), n)
        state = state + (u @ spread.mT) @ lower_toeplitz(a64).to(dtype).mT
    return state.transpose(0, 1)


def advance(state: Float[Tensor, "*b h d"], a: Float[Tensor, "h d"], steps: int) -> Float[Tensor, "*b h d"]:
    """A^steps state, without a power of a matrix: x^steps state(x) modulo the characteristic polynomial.

    Args:
        state: (*, H, d). a: (H, d). steps: >= 0.
    Returns: (*, H, d) in the dtype of state.
    Complexity: O(H d log d log(steps)) for the power, O(d log d) a state.
    """
    if steps == 0:
        return state
    flat = state.reshape(-1, *a.shape)
    a64 = a.double()
    if steps == 1:
        moved = pad(flat[..., :-1], (1, 0)) + a * flat[..., -1:]
        return moved.reshape(state.shape)
    power = power_modulo(a64, steps)
    batch, (h, d) = flat.shape[0], a.shape
    rows = flat.double().reshape(batch * h, d)
    moved = reduce(product(rows, power.repeat(batch, 1), 2 * d), a64.repeat(batch, 1))
    return moved.reshape(state.shape).to(state.dtype)


def power_modulo(a: Tensor, steps: int) -> Tensor:
    """x^steps modulo chi(x) = x^d - sum_i a[i] x^i, that is A^steps e_1: (H, d), float64, by repeated squaring."""
    d = a.shape[1]
    if steps < d:
        return pad(torch.ones_like(a[:, :1]), (steps, d - 1 - steps))
    half = power_modulo(a, steps // 2)
    square = product(half, half, 2 * d)
    if steps % 2:
        square = pad(square[:, :-1], (1, 0))
    return reduce(square, a)


def reduce(polynomial: Tensor, a: Tensor) -> Tensor:
    """A polynomial of degree below 2 d modulo chi: the quotient is a power-series division from the top. (R, d)."""
    d = a.shape[1]
    quotient = all_pole(polynomial.flip(1)[:, :d], a.flip(1), d, False).flip(1)
    # chi's terms below x^d are -a.
    return polynomial[:, :d] + product(quotient, a, d)
