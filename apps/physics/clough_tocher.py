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
# Coordinates in the part at side (i, j): of i, j and the centroid.
_SPLIT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, -1.0, 3.0]], dtype=torch.float64)
_TURNS = torch.tensor([[1, 2, 0], [2, 0, 1], [0, 1, 2]])
_PARTS = torch.cat([_REST, *(_ordinates(tuple(float(k == n) for k in range(3))) - _REST for n in range(3))], 1)


# The ten cubics as products of coordinates: a square or a product of two, times a third; how often each occurs.
_TWO, _THREE = torch.tensor([0, 1, 2, 0, 1, 0, 1, 0, 2, 2]), torch.tensor([0, 1, 2, 0, 1, 0, 1, 1, 2, 2])
_LAST = torch.tensor([0, 1, 2, 1, 0, 2, 2, 2, 0, 1])
_OFTEN = torch.tensor([1, 1, 1, 3, 3, 3, 3, 6, 3, 3], dtype=torch.float64)
CUBICS = _OFTEN[:, None] * _PARTS
# The same from products of three different factors, (27, 36): their every order.
MIXED = torch.stack([_PARTS[CUBIC.index(tuple(abc.count(k) for k in range(3)))] for abc in product(range(3), repeat=3)])


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
    w = at @ _SPLIT
    along: list[Tensor] = []
    for axis, count in enumerate(orders):
        if count and slopes is not None:
            along += [slopes[:, :, axis].gather(1, turn) @ _SPLIT] * count
    if along:
        # The derivative of a product of three equal factors, 3 v w w, and its derivative, 6 v v' w.
        one, two = along[0], along[1] if len(along) == 2 else w
        pairs = (one[:, :, None] * two[:, None, :]).flatten(1) * (3 * len(along))
        parts = (pairs[:, :, None] * w[:, None, :]).flatten(1) @ MIXED
    else:
        parts = (w[:, _TWO] * w[:, _THREE] * w[:, _LAST]) @ CUBICS
    # Sides (i, j), (j, k), (k, i) are opposite to k, i, j.
    foot = feet.gather(1, turn)
    total = torch.addcmul(parts[:, :9], parts[:, 9:18], foot[:, 2:])
    total.addcmul_(parts[:, 18:27], foot[:, :1]).addcmul_(parts[:, 27:], foot[:, 1:2])
    return k, total
