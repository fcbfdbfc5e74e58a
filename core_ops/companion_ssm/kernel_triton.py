"""Triton kernels: the all-pole recurrence and the companion kernel, a row each; the decode step, in place.

Shapes: R rows, n terms of x, d states, L length, B batch, H channels. Recurrences are float64: latency binds them.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of a tile of the past, block by lags.
TILE = 4096
# Rows of a step's program together hold about this many states.
STEP_ELEMENTS = 1024


def kernel(function: Callable[..., Any]) -> Any:
    """triton.jit of the function itself, where a hook that checks types has wrapped it."""
    return triton.jit(inspect.unwrap(function))


@kernel
def _first_terms(p, g_at, d, S: tl.constexpr):  # type: ignore[no-untyped-def]
    # The first S terms of 1 / D, kept at g_at, then as the matrix g[i - j] in [j, i].
    i = tl.arange(0, S)
    g = tl.where(i == 0, 1.0, 0.0).to(tl.float64)
    for t in range(1, S):
        lag = t - i
        w = tl.load(p + lag - 1, mask=(lag >= 1) & (lag <= d), other=0.0)
        g = tl.where(i == t, tl.sum(w * g, 0), g)
    tl.store(g_at + i, g)
    tl.debug_barrier()
    back = i[None, :] - i[:, None]
    return tl.load(g_at + back, mask=back >= 0, other=0.0)


@kernel
def _from_past(r, y, p, t0, d, S: tl.constexpr, J: tl.constexpr):  # type: ignore[no-untyped-def]
    # r[i] += sum over lags beyond i of p[lag - 1] y[t0 + i - lag].
    i = tl.arange(0, S)
    for j0 in range(0, d, J):
        j = j0 + tl.arange(0, J)
        w = tl.load(p + j, mask=j < d, other=0.0)
        at = t0 + i[:, None] - 1 - j[None, :]
        v = tl.load(y + at, mask=(at >= 0) & (at < t0) & (j[None, :] < d), other=0.0)
        r += tl.sum(v * w[None, :], 1)
    return r


@kernel
def _all_pole(x, p, y, g_at, n, d, length, S: tl.constexpr, J: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    x, p, y = x + row * n, p + row * d, y + row * length
    i = tl.arange(0, S)
    g = _first_terms(p, g_at + row * S, d, S)
    for t0 in range(0, length, S):
        r = tl.load(x + t0 + i, mask=t0 + i < n, other=0.0)
        r = _from_past(r, y, p, t0, d, S, J)
        tl.store(y + t0 + i, tl.sum(g * r[:, None], 0), mask=t0 + i < length)
        tl.debug_barrier()


@kernel
def _companion(p, b, s, g_at, k, d, length, S: tl.constexpr, J: tl.constexpr):  # type: ignore[no-untyped-def]
    # s[t] = c^T A^t e_1 starts with c and goes on as the recurrence without input; k[l] = sum_i b[i] s[l + i].
    row = tl.program_id(0).to(tl.int64)
    total = length + d - 1
    p, b, s, k = p + row * d, b + row * d, s + row * total, k + row * length
    i = tl.arange(0, S)
    g = _first_terms(p, g_at + row * S, d, S)
    for t0 in range(d, total, S):
        r = _from_past(tl.zeros([S], tl.float64), s, p, t0, d, S, J)
        tl.store(s + t0 + i, tl.sum(g * r[:, None], 0), mask=t0 + i < total)
        tl.debug_barrier()
    for l0 in range(0, length, S):
        out = tl.zeros([S], tl.float64)
        for j0 in range(0, d, J):
            j = j0 + tl.arange(0, J)
            w = tl.load(b + j, mask=j < d, other=0.0)
            at = l0 + i[:, None] + j[None, :]
            v = tl.load(s + at, mask=(at < total) & (j[None, :] < d), other=0.0)
            out += tl.sum(v * w[None, :], 1)
        tl.store(k + l0 + i, out.to(k.dtype.element_ty), mask=l0 + i < length)


@kernel
def _step(state, u, a, b, c, skip, y, rows, h, d, SKIP: tl.constexpr, R: tl.constexpr, D: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0) * R + tl.arange(0, R)
    i = tl.arange(0, D)
    here = row < rows
    channel = row % h
    at = row[:, None].to(tl.int64) * d + i[None, :]
    of = channel[:, None] * d + i[None, :]
    mask = here[:, None] & (i[None, :] < d)
    moved = tl.load(state + at - 1, mask=mask & (i[None, :] > 0), other=0.0)
    last = tl.load(state + row.to(tl.int64) * d + d - 1, mask=here, other=0.0)
    now = tl.load(u + row, mask=here, other=0.0)
    new = moved + tl.load(a + of, mask=mask, other=0.0) * last[:, None]
    new += tl.load(b + of, mask=mask, other=0.0) * now[:, None]
    out = tl.sum(new * tl.load(c + of, mask=mask, other=0.0), 1)
    if SKIP:
        out += tl.load(skip + channel, mask=here, other=0.0) * now
    # Every neighbour has read what is overwritten now.
    tl.debug_barrier()
    tl.store(state + at, new, mask=mask)
    tl.store(y + row, out, mask=here)


def tiles(d: int) -> dict[str, Any]:
    """Block, lags in a tile and warps for d states."""
    block = 32 if d <= 64 else 64
    lags = min(triton.next_power_of_2(max(d, 16)), TILE // block)
    return {"S": block, "J": lags, "num_warps": 4 if d <= 64 else 8}


def all_pole_triton(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """division.divide by the recurrence itself, one program a row: no transfer to the host. (R, L), float64."""
    x, p = x[:, :length].contiguous(), p.contiguous()
    how = tiles(p.shape[1])
    y, g = x.new_empty(x.shape[0], length), x.new_empty(x.shape[0], how["S"])
    if x.shape[0]:
        _all_pole[(x.shape[0],)](x, p, y, g, x.shape[1], p.shape[1], length, **how)
    return y


def companion_triton(a: Tensor, b: Tensor, c: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """k[l] = c^T A^l b in one launch, without gradient: a, b, c (R, d), float64; k (R, L) in dtype."""
    rows, d = a.shape
    p, b = a.flip(1), b.contiguous()
    how = tiles(d)
    s, g = c.new_empty(rows, length + d - 1), c.new_empty(rows, how["S"])
    s[:, :d] = c
    k = c.new_empty(rows, length, dtype=dtype)
    if rows:
        _companion[(rows,)](p, b, s, g, k, d, length, **how)
    return k


def step_triton(state: Tensor, u: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None) -> Tensor:
    """One step in one launch, the state overwritten: (B, H, d), (B, H), (H, d) x 3, (H,), all contiguous. y (B, H)."""
    batch, h, d = state.shape
    y = torch.empty_like(u)
    wide = triton.next_power_of_2(d)
    rows = max(1, STEP_ELEMENTS // wide)
    grid = (triton.cdiv(batch * h, rows),)
    _step[grid](state, u, a, b, c, u if skip is None else skip, y, batch * h, h, d, skip is not None, rows, wide)
    return y
