"""C1 cubics on triangles (Clough and Tocher), reduced: the slope across a side is linear along it.

A triangle is split at its centroid C into three cubics in Bernstein form. It is given nine numbers: values f_i at its
corners and slopes a_ij = grad f(V_i) . (V_j - V_i) along its sides, from both ends. Quadratics are reproduced.
Source: Clough and Tocher 1965; the conditions on the ordinates as in Farin 1986, "Triangular Bernstein-Bezier patches".
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import torch
from torch import Tensor

# Exponents of the weights of corners i, j and of the centroid; the order of the ten ordinates.
CUBIC = ((3, 0, 0), (0, 3, 0), (0, 0, 3), (2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 1, 1), (1, 0, 2), (0, 1, 2))


def bernstein(w: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """The ten cubics (Q, 10) at barycentric coordinates w (Q, 3), differentiated along each direction (Q, 3)."""
    degree = 3 - len(directions)
    found: dict[tuple[int, ...], Tensor] = {}
    power = [[torch.ones_like(u), u, u * u, u * u * u] for u in w.unbind(1)]
    for a in range(degree + 1):
        for b in range(degree + 1 - a):
            c = degree - a - b
            number = factorial(degree) / (factorial(a) * factorial(b) * factorial(c))
            found[a, b, c] = power[0][a] * power[1][b] * (power[2][c] * number)
    for v in directions:
        degree += 1
        raised: dict[tuple[int, ...], Tensor] = {}
        for (a, b, c), value in found.items():
            for k, up in enumerate(((a + 1, b, c), (a, b + 1, c), (a, b, c + 1))):
                term = degree * v[:, k] * value
                raised[up] = raised[up] + term if up in raised else term
        found = raised
    return torch.stack([found[key] for key in CUBIC], 1)


def _ordinates(feet: Sequence[float]) -> Tensor:
    """The ten ordinates of the part at side (i, j) from the nine numbers, (10, 9).

    Args:
        feet: Where the foot of the centroid divides the sides (i, j), (j, k) and (k, i), from their first corner.
    """
    f = torch.eye(9, dtype=torch.float64)
    corner = dict(zip("ijk", f[:3], strict=True))
    slope = dict(zip(("ij", "ik", "jk", "ji", "ki", "kj"), f[3:], strict=True))
    side = {ab: corner[ab[0]] + a / 3 for ab, a in slope.items()}
    inner = {a: corner[a] + sum(v for ab, v in slope.items() if ab[0] == a) / 9 for a in "ijk"}
    middle = {}
    for ab, beta in zip(("ij", "jk", "ki"), feet, strict=True):
        a, b = ab[0], ab[1]
        alpha, back = 1 - beta, side[b + a]
        ends = inner[a] - alpha * corner[a] - beta * side[ab] + inner[b] - alpha * back - beta * corner[b]
        middle[frozenset(ab)] = alpha * side[ab] + beta * back + ends / 2
    near = {a: (inner[a] + sum(m for ab, m in middle.items() if a in ab)) / 3 for a in "ijk"}
    centre = (near["i"] + near["j"] + near["k"]) / 3
    rows = [corner["i"], corner["j"], centre, side["ij"], side["ji"], inner["i"], inner["j"]]
    return torch.stack([*rows, middle[frozenset("ij")], near["i"], near["j"]])


# The ordinates depend on the feet by these four matrices: at rest, and what each foot adds.
_REST = _ordinates((0, 0, 0))
_TURNS = torch.tensor([[1, 2, 0], [2, 0, 1], [0, 1, 2]])
PARTS = torch.cat([_REST, *(_ordinates(tuple(float(k == n) for k in range(3))) - _REST for n in range(3))], 1)


def weights(
    place: Tensor, feet: Tensor, slopes: Tensor | None = None, orders: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """What the nine numbers of its triangle weigh at each point.

    Args:
        place: Barycentric coordinates (Q, 3).
        feet: Of the centroid on the side opposite to each corner, from the next corner on, (Q, 3).
        slopes: For derivatives: those of the coordinates along x and y, (Q, 3, 2). orders: Along x and y.
    Returns: The corner k that is opposite to the point's part (Q,), and weights (Q, 9) of f_i, f_j, f_k, a_ij, a_ik,
        a_jk, a_ji, a_ki, a_kj with i = k + 1 and j = k + 2 around the triangle.
    """
    k = place.argmin(1)
    turn = _TURNS[k]
    at = place.gather(1, turn)
    w = torch.stack([at[:, 0] - at[:, 2], at[:, 1] - at[:, 2], 3 * at[:, 2]], 1)
    directions = []
    for axis, count in enumerate(orders):
        if count and slopes is not None:
            v = slopes[:, :, axis].gather(1, turn)
            directions += [torch.stack([v[:, 0] - v[:, 2], v[:, 1] - v[:, 2], 3 * v[:, 2]], 1)] * count
    parts = bernstein(w, directions) @ PARTS
    # Sides (i, j), (j, k), (k, i) are opposite to k, i, j.
    foot = feet.gather(1, turn)
    total = torch.addcmul(parts[:, :9], parts[:, 9:18], foot[:, 2:])
    total.addcmul_(parts[:, 18:27], foot[:, :1]).addcmul_(parts[:, 27:], foot[:, 1:2])
    return k, total
