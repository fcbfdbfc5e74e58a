"""The operands of one window and how rows are read (gated, upcast, cut) and written (skip, gate, cast).

Shapes: u, pregate (B, G, R, L); y, postgate (B, G, R, outputs of the window); k (G, Lk); skip (G, R); R = H / G.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .composite import alias
from .modes import Problem


@dataclass(frozen=True)
class Rows:
    """A box of rows: batch [b0, b1), filters [g0, g1), channels of a filter [r0, r1)."""

    b0: int
    b1: int
    g0: int
    g1: int
    r0: int
    r1: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, G, R) of the box."""
        return self.b1 - self.b0, self.g1 - self.g0, self.r1 - self.r0

    def of(self, x: Tensor) -> Tensor:
        """The box of a tensor (B, G, R, ...)."""
        return x[self.b0 : self.b1, self.g0 : self.g1, self.r0 : self.r1]


def boxes(batch: int, groups: int, width: int, most: int) -> list[list[Rows]]:
    """Rows in boxes of at most `most` (or one): one list for each run of filters."""
    per_g = max(1, min(groups, most // width))
    per_r = width if per_g * width <= most else max(1, most)
    per_b = max(1, min(batch, most // (per_g * per_r)))
    return [
        [
            Rows(b, min(b + per_b, batch), g, min(g + per_g, groups), r, min(r + per_r, width))
            for b in range(0, batch, per_b)
            for r in range(0, width, per_r)
        ]
        for g in range(0, groups, per_g)
    ]


@dataclass(frozen=True)
class Source:
    """What is convolved: pregate * u, as the x of a problem.

    Args:
        u: (B, G, R, L). gate: As u, or None.
    """

    u: Tensor
    gate: Tensor | None

    def load(self, out: Tensor, rows: Rows, problem: Problem, first: int = 0) -> Tensor:
        """out (b, g, r, n) = x[first : first + n] of these rows; zero beyond x."""
        n, at = out.shape[-1], 0
        for start, source, count in problem.pieces:
            lo, hi = max(start, first), min(start + count, first + n)
            if lo >= hi:
                continue
            out[..., at : lo - first] = 0
            at = hi - first
            part = slice(source + lo - start, source + hi - start)
            target = out[..., lo - first : at].copy_(rows.of(self.u)[..., part])
            if self.gate is not None:
                target.mul_(rows.of(self.gate)[..., part])
        out[..., at:] = 0
        return out

    def view(self, rows: Rows, problem: Problem, dtype: torch.dtype) -> Tensor | None:
        """x of these rows as a view of u, where it is one: no gate, one piece, of this dtype, samples side by side."""
        if self.gate is not None or self.u.dtype != dtype or len(problem.pieces) > 1 or self.u.stride(-1) != 1:
            return None
        _, first, count = problem.pieces[0]
        return rows.of(self.u)[..., first : first + count]

    def whole(self, rows: Rows, problem: Problem, size: int, dtype: torch.dtype) -> Tensor | None:
        """One row of u itself where it already is x: contiguous, of this dtype and size, without a gate."""
        row = rows.of(self.u)[0, 0, 0]
        same = problem.pieces == ((0, 0, size),) and row.shape[0] == size
        return row if same and self.gate is None and row.dtype == dtype and row.is_contiguous() else None


@dataclass(frozen=True)
class Sink:
    """Where the window goes: y = gate * (conv + skip * x).

    Args:
        y: (B, G, R, outputs). gate: As y, or None. skip: (G, R), or None. shared: Outputs that skip reaches.
    """

    y: Tensor
    gate: Tensor | None
    skip: Tensor | None
    shared: int

    def store(self, value: Tensor, rows: Rows, problem: Problem, first: int, x: Tensor, x0: int) -> None:
        """Write computed outputs [first, first + n); value (b, g, r, n) is changed; x[0] holds sample x0."""
        n, o = value.shape[-1], problem.o0 + first
        if self.skip is not None and o < self.shared:
            reach = min(self.shared - o, n)
            at = problem.here + o - x0
            skip = self.skip[rows.g0 : rows.g1, rows.r0 : rows.r1, None]
            value[..., :reach].addcmul_(x[..., at : at + reach], skip)
        if self.gate is not None:
            value.mul_(rows.of(self.gate)[..., o : o + n])
        rows.of(self.y)[..., o : o + n].copy_(value)

    def whole(self, rows: Rows, problem: Problem, size: int, dtype: torch.dtype) -> Tensor | None:
        """One row of y itself where outputs need nothing more: contiguous, of this dtype and size."""
        row = rows.of(self.y)[0, 0, 0]
        same = problem.start == 0 and problem.o0 == 0 and problem.outputs == size == row.shape[0]
        plain = self.gate is None and self.skip is None and row.dtype == dtype
        return row if same and plain and row.is_contiguous() else None


def filters(k: Tensor, g0: int, g1: int, problem: Problem, flip: bool, dtype: torch.dtype) -> Tensor:
    """The taps that a problem uses, (g1 - g0, taps), upcast, reversed first where flip, aliased where periodic."""
    k = k[g0:g1].to(dtype)
    k = k.flip(-1) if flip else k
    if problem.alias:
        k = alias(k, problem.alias)
    return k[:, problem.k0 : problem.k1]
