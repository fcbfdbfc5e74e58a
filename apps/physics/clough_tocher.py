"""C1 cubics on triangles (Clough and Tocher), reduced: the slope across a side is linear along it.

A triangle is split at its centroid C into three cubics in Bernstein form. It is given nine numbers: values f_i at its
corners and slopes a_ij = grad f(V_i) . (V_j - V_i) along its sides, from both ends. Quadratics are reproduced.
Source: Clough and Tocher 1965; the conditions on the ordinates as in Farin 1986, "Triangular Bernstein-Bezier patches".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

# Exponents of the weights of corners i, j and of the centroid; the order of the ten ordinates.
CUBIC = ((3, 0, 0), (0, 3, 0), (0, 0, 3), (2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 1, 1), (1, 0, 2), (0, 1, 2))


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
# Coordinates in the part at side (i, j), of i, j and the centroid, from those in the triangle: rows i, j, k.
_SPLIT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, -1.0, 3.0]], dtype=torch.float64)
# The corners i, j, k of the part opposite to corner k, by row.
_TURNS = torch.tensor([[1, 2, 0], [2, 0, 1], [0, 1, 2]])
# What one cubic adds to the nine weights: alone, and by the foot on side (i, j), (j, k), (k, i); (4, 10, 9).
_PARTS = torch.stack([_REST, *(_ordinates(tuple(float(k == n) for k in range(3))) - _REST for n in range(3))])


# The ten cubics as squares of coordinates times coordinates, and the product of all three; how often each occurs.
_PRODUCTS = [(n, n, m) for n in range(3) for m in range(3)] + [(0, 1, 2)]
_OFTEN = {1: 6.0, 2: 3.0, 3: 1.0}


def _parts_of(products: Sequence[tuple[int, ...]]) -> Tensor:
    """Rows of `_PARTS` for products of coordinates, (4, len, 9)."""
    return _PARTS[:, [CUBIC.index(tuple(abc.count(k) for k in range(3))) for abc in products]]


_TIMES = torch.tensor([_OFTEN[max(abc.count(k) for k in range(3))] for abc in _PRODUCTS], dtype=torch.float64)
CUBICS = (_parts_of(_PRODUCTS) * _TIMES[:, None]).flatten(0, 1)
# The same from products of three different factors: their every order, (4 * 27, 9).
MIXED = _parts_of(list(product(range(3), repeat=3))).flatten(0, 1)


def rotated(feet: Tensor) -> Tensor:
    """What the three parts of each triangle know of it, (3 M, 4): 1, and its feet on sides (i, j), (j, k), (k, i).

    Args:
        feet: Of the centroid on the side opposite to each corner, from the next corner on, (M, 3).
    """
    # Those sides are opposite to k, i, j.
    turned = feet[:, _TURNS[:, [2, 0, 1]]].reshape(-1, 3)
    return torch.cat([torch.ones_like(turned[:, :1]), turned], 1).contiguous()


def part_of(triangle: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The part of its triangle that a point lies in.

    Args:
        triangle: (Q,). place: Barycentric coordinates (3, Q).
    Returns: Its number, 3 triangle + k with k the opposite corner, (Q,); the corners (i, j, k) in its order (3, Q);
        and the point's coordinates in the part: of i, j and the centroid, (3, Q).
    """
    # The least coordinate; an argmin takes twenty times as long.
    k = torch.where(place[2] < torch.minimum(place[0], place[1]), 2, (place[1] < place[0]).long())
    turn = _TURNS.index_select(1, k)
    return torch.add(k, triangle, alpha=3), turn, in_part(place.gather(0, turn))


def in_part(coordinates: Tensor) -> Tensor:
    """Of i, j and the centroid, (3, Q), from those of i, j and k; their changes along a line alike."""
    return _SPLIT.mT @ coordinates


def weights(w: Tensor, feet: Tensor, along: Sequence[Tensor] = ()) -> Tensor:
    """What the nine numbers of its triangle weigh at each point.

    Args:
        w: Coordinates in the part (3, Q). feet: Of the part, (4, Q), as of `rotated`; its dtype is that of the result.
        along: For derivatives: how these coordinates change along an axis, (3, Q), one for each order.
    Returns: (Q, 9), of f_i, f_j, f_k, a_ij, a_ik, a_jk, a_ji, a_ki, a_kj.
    """
    w = w.to(feet.dtype)
    if along:
        # The derivative of a product of three equal factors, 3 v w w, and its derivative, 6 v v' w.
        one, two = along[0], along[1] if len(along) == 2 else w
        pairs = (one[:, None] * two).flatten(0, 1) * (3 * len(along))
        products, matrix = (pairs[:, None] * w).flatten(0, 1), MIXED
    else:
        products, matrix = w.new_empty(10, w.shape[1]), CUBICS
        torch.mul((w * w)[:, None], w, out=products[:9].view(3, 3, -1))
        torch.mul(w[0] * w[1], w[2], out=products[9])
    return (feet[:, None] * products).flatten(0, 1).mT @ matrix.to(feet.dtype)
