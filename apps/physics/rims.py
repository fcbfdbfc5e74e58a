"""The lines of a mesh's boundary where values are given: what is known along them comes from their own nodes alone.

Shapes: N nodes of the mesh, M triangles, R nodes of a line in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from farfield.apps.physics.mesh import Cells
from farfield.core_ops.errors import DomainError, ShapeError

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# Sides whose directions differ by less (sine) are one straight line.
STRAIGHT = 1e-6
# A line that turns by more than this (cosine) has a corner there.
CORNER = 0.8
# Weights whose magnitudes add up to more would enlarge noise.
NOISE = 1.7
# Nodes of a line that give a value or a slope on it.
STENCIL = 4


@dataclass(frozen=True)
class Rim:
    """Nodes of one line in order.

    Args:
        nodes: (R,). closed: Whether the last node is followed by the first.
    """

    nodes: Index
    closed: bool


def triangles_of(nodes: Array, cells: Cells) -> Index:
    """Triangles (M, 3); quads are cut along their shorter diagonal.

    Raises: ShapeError: no cell is a triangle or a quad; DomainError: one has no area.
    """
    found = [np.asarray(cells["triangle"], np.int64)] if "triangle" in cells else []
    if "quad" in cells:
        quad = np.asarray(cells["quad"], np.int64)
        one, two = (np.linalg.norm(nodes[quad[:, a]] - nodes[quad[:, b]], axis=1) for a, b in ((0, 2), (1, 3)))
        # Which one of two equal diagonals must not hang on rounding.
        first = np.where((one <= two * (1 + 1e-9))[:, None], quad[:, [0, 1, 2]], quad[:, [0, 1, 3]])
        second = np.where((one <= two * (1 + 1e-9))[:, None], quad[:, [0, 2, 3]], quad[:, [1, 2, 3]])
        found += [first, second]
    if not found:
        raise ShapeError(f"Irregular: the mesh has cells of the kinds {', '.join(cells) or 'none'}; needed: triangles.")
    triangles = np.concatenate(found)
    corners = nodes[triangles]
    size = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
    if len(bad := np.flatnonzero(size <= 1e-12 * np.median(size))):
        raise DomainError(f"Irregular: {len(bad)} of {len(triangles)} triangles have no area, the first: {bad[0]}.")
    return triangles


def border(triangles: Index) -> Index:
    """Sides (K, 2) that belong to one triangle only."""
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    _, where, count = np.unique(np.sort(sides, axis=1), axis=0, return_index=True, return_counts=True)
    return np.asarray(sides[where[count == 1]], np.int64)


def rims(nodes: Array, triangles: Index, parts: Mapping[str, Index], held: Sequence[str]) -> list[Rim]:
    """The lines of the held parts, each part's own."""
    sides = border(triangles)
    found = []
    for tag in held:
        on = np.zeros(len(nodes), bool)
        on[parts[tag]] = True
        found += _lines(sides[on[sides].all(axis=1)])
    return found


def _lines(sides: Index) -> list[Rim]:
    """Sides joined to open lines and loops; a node where more than two meet ends a line."""
    beside: dict[int, list[int]] = {}
    for a, b in sides.tolist():
        beside.setdefault(a, []).append(b)
        beside.setdefault(b, []).append(a)
    left = {frozenset(side) for side in sides.tolist()}
    found = []

    def walk(start: int) -> None:
        line = [start]
        while True:
            onward = [b for b in beside[line[-1]] if frozenset((line[-1], b)) in left]
            if not onward or (len(line) > 1 and len(beside[line[-1]]) != 2):
                break
            left.discard(frozenset((line[-1], onward[0])))
            line.append(onward[0])
        closed = len(line) > 2 and line[0] == line[-1]
        if len(line) > 1:
            found.append(Rim(np.array(line[:-1] if closed else line, np.int64), closed))

    for node in [n for n, others in beside.items() if len(others) != 2]:
        for _ in beside[node]:
            walk(node)
    for node in beside:
        walk(node)
    return found


def arcs(nodes: Array, line: Rim) -> tuple[Array, float]:
    """Distance of each node along the line from its first, and the length of the whole."""
    x = nodes[line.nodes]
    steps = np.linalg.norm(np.diff(np.concatenate([x, x[:1]]), axis=0), axis=1)
    return np.concatenate([[0], np.cumsum(steps[:-1])]), float(steps.sum() if line.closed else steps[:-1].sum())


def trace_weights(nodes: Array, line: Rim, known: NDArray[np.bool_]) -> tuple[Index, Index, Array]:
    """Values along a line from those of its nodes that are known: polynomials through the nearest of them.

    Returns: Nodes of the line that are not known (P,), the known ones that each takes (P, K), their weights (P, K).
    Raises: DomainError: none of the line's nodes is known.
    """
    if bends := _bends(nodes, line, known):
        parts = [trace_weights(nodes, part, known) for part in _cut(line, bends)]
        return (
            np.concatenate([p[0] for p in parts]),
            np.concatenate([np.pad(p[1], ((0, 0), (0, STENCIL - p[1].shape[1])), mode="edge") for p in parts]),
            np.concatenate([np.pad(p[2], ((0, 0), (0, STENCIL - p[2].shape[1]))) for p in parts]),
        )
    s, length = arcs(nodes, line)
    have = np.flatnonzero(known[line.nodes])
    want = np.flatnonzero(~known[line.nodes])
    if not len(have):
        place = ", ".join(f"{x:g}" for x in nodes[line.nodes[0]])
        raise DomainError(f"Irregular: no node is chosen on the held line that begins at ({place}); choose some there.")
    count = min(STENCIL, len(have))
    after = np.searchsorted(have, want)
    first = after - (count + 1) // 2
    pick = first[:, None] + np.arange(count)
    if line.closed:
        turn, pick = np.divmod(pick, len(have))
        at = s[have][pick] + turn * length
    else:
        pick = np.clip(first, 0, len(have) - count)[:, None] + np.arange(count)
        at = s[have][pick]
    weight = lagrange(at, s[want])
    # Uneven gaps make a polynomial of high degree swing: there the two nearest take its place.
    wild = np.abs(weight).sum(axis=1) > NOISE
    if wild.any() and count > 2:
        order = np.argsort(np.abs(at[wild] - s[want][wild, None]), axis=1)[:, :2]
        near = np.take_along_axis(at[wild], order, axis=1)
        weight[wild] = 0
        np.put_along_axis(part := weight[wild], order, lagrange(near, s[want][wild]), axis=1)
        weight[wild] = part
    return line.nodes[want], line.nodes[have][pick], weight


def _bends(nodes: Array, line: Rim, known: NDArray[np.bool_]) -> list[int]:
    """Places in a line, not its ends, where it turns sharply and its value is known: there a smooth piece ends."""
    x, n = nodes[line.nodes], len(line.nodes)
    along = np.diff(np.concatenate([x, x[:1]]), axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    inner = range(n) if line.closed else range(1, n - 1)
    return [k for k in inner if known[line.nodes[k]] and along[k - 1] @ along[k] < CORNER]


def _cut(line: Rim, bends: list[int]) -> list[Rim]:
    """The open pieces between bends; each bend belongs to both of its own."""
    if line.closed:
        nodes = np.concatenate([line.nodes[bends[0] :], line.nodes[: bends[0] + 1]])
        bends = [b - bends[0] for b in bends[1:]]
    else:
        nodes = line.nodes
    ends = [0, *bends, len(nodes) - 1]
    return [Rim(nodes[a : b + 1], False) for a, b in pairwise(ends)]


def lagrange(at: Array, x: Array) -> Array:
    """Weights (P, K) of values at positions (P, K) in the polynomial through them, at x (P,)."""
    k = at.shape[1]
    gaps = at[:, :, None] - at[:, None] + np.eye(k)
    above = np.where(np.eye(k, dtype=bool), 1.0, (x[:, None] - at)[:, None])
    return np.asarray((above / gaps).prod(axis=2))


def side_slopes(nodes: Array, line: Rim) -> tuple[Index, Index, Array]:
    """Slopes along the sides of a line, from its own nodes.

    On a straight stretch they are those of the polynomial through the nearest nodes of it; where the line bends, a side
    is straight by itself, which keeps linear fields and constants exact.

    Returns: Directed sides (S, 2), the nodes that each takes (S, K), their weights (S, K), for the slope times the
        side's length.
    """
    x = nodes[line.nodes]
    n = len(line.nodes)
    sides = [(k, (k + 1) % n) for k in range(n if line.closed else n - 1)]
    along = np.array([x[b] - x[a] for a, b in sides])
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    stretch, bends = [[0]], []
    for k in range(1, len(sides)):
        (a, b), (c, d) = along[k - 1], along[k]
        straight = abs(a * d - b * c) < STRAIGHT and a * c + b * d > 0
        bends.append(not straight)
        if straight:
            stretch[-1].append(k)
        else:
            stretch.append([k])
    pairs, others, weights = [], [], []
    for group in stretch:
        member = [sides[group[0]][0], *(sides[k][1] for k in group)]
        s = np.concatenate([[0], np.cumsum([np.linalg.norm(x[sides[k][1]] - x[sides[k][0]]) for k in group])])
        count = min(STENCIL, len(member))
        for k in range(len(group)):
            for a, b in ((k, k + 1), (k + 1, k)):
                start = int(np.clip(a - count // 2, 0, len(member) - count))
                near = np.arange(start, start + count)
                w = _slope(s[near], s[a]) * (s[b] - s[a])
                pairs.append((member[a], member[b]))
                others.append(np.pad([member[m] for m in near], (0, STENCIL - count), mode="edge"))
                weights.append(np.pad(w, (0, STENCIL - count)))
    index = np.array(others)
    return line.nodes[np.array(pairs)], line.nodes[index], np.array(weights)


def _slope(at: Array, x: float) -> Array:
    """Weights of values at positions (K,) in the slope at x of the polynomial through them."""
    powers = np.arange(len(at))
    scale = float(np.ptp(at)) or 1.0
    table = ((at - x) / scale)[None] ** powers[:, None]
    right = np.zeros(len(at))
    right[1 if len(at) > 1 else 0] = 1 if len(at) > 1 else 0
    return np.asarray(np.linalg.solve(table, right) / scale)
