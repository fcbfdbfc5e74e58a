"""Weights of a few neighbours that give a smooth field's value, or its gradient, at a place beside them.

Neighbours are seen along the mesh: a node behind a wall or a hole is far away, however near it lies.
Shapes: N nodes of the mesh, S sources, P places, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farfield.apps.physics.locate import Locator

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
# The way along the mesh to a neighbour is at most so many times the straight one; edges alone make it up to 1.3.
DETOUR = 1.6
# Rows of weights whose magnitudes add up to more than this would enlarge the noise of a network.
NOISE = 3.0
# Sides of the boundary, the nearest ones of each place, that may stand between it and a neighbour.
SIDES = 256
# Of the matrix of ways, so many entries at once.
BLOCK = 2**22


def ways(nodes: Array, triangles: Index) -> Any:
    """The graph of the mesh with the lengths of its edges, and of the other diagonal of each pair of triangles."""
    from scipy import sparse

    pairs = [triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]
    sides = np.sort(np.concatenate(pairs), axis=1)
    opposite = np.concatenate([triangles[:, 2], triangles[:, 0], triangles[:, 1]])
    order = np.lexsort((sides[:, 1], sides[:, 0]))
    sides, opposite = sides[order], opposite[order]
    twin = np.flatnonzero((sides[1:] == sides[:-1]).all(axis=1))
    across = np.stack([opposite[twin], opposite[twin + 1]], axis=1)
    # The diagonal is a way only where it stays within its two triangles.
    a, b, c, d = (nodes[k] for k in (sides[twin, 0], sides[twin, 1], across[:, 0], across[:, 1]))
    turn = [_turn(c, d, a), _turn(c, d, b)]
    every = np.unique(np.concatenate([sides, np.sort(across[turn[0] * turn[1] <= 0], axis=1)]), axis=0)
    length = np.linalg.norm(nodes[every[:, 0]] - nodes[every[:, 1]], axis=1)
    graph = sparse.coo_matrix((length, (every[:, 0], every[:, 1])), shape=(len(nodes), len(nodes)))
    return (graph + graph.T).tocsr()


def neighbours(graph: Any, nodes: Array, places: Index, sources: Index, count: int) -> Index:
    """The `count` nearest sources that each place sees along the mesh, nearest first: (P, K), -1 where too few."""
    from scipy.sparse.csgraph import dijkstra

    found = np.full((len(places), count), -1, np.int64)
    area = float(np.median(graph.data)) ** 2 * len(nodes)
    # A disk with several times the wanted number of sources; far ones cost time only.
    limit = 3 * np.sqrt(area * max(count, 8) / max(1, len(sources)))
    todo = np.arange(len(places))
    for _ in range(6):
        step = max(1, BLOCK // len(nodes))
        short = []
        for start in range(0, len(todo), step):
            rows = todo[start : start + step]
            away = dijkstra(graph, indices=places[rows], limit=limit)[:, sources]
            straight = np.linalg.norm(nodes[places[rows]][:, None] - nodes[sources][None], axis=2)
            seen = np.isfinite(away) & (away <= DETOUR * straight + 1e-12)
            away[~seen] = np.inf
            best = np.argsort(away, axis=1, kind="stable")[:, :count]
            good = np.isfinite(np.take_along_axis(away, best, axis=1))
            block = np.where(good, sources[best], -1)
            found[rows, : block.shape[1]] = block
            short.append(rows[good.sum(axis=1) < min(count, len(sources))])
        todo = np.concatenate(short) if short else todo[:0]
        if not len(todo) or limit > 1e3 * graph.data.sum():
            break
        limit *= 3
    return found


def in_sight(nodes: Array, places: Index, near: Index, sides: Index, locator: Locator, count: int) -> Index:
    """The first `count` neighbours of each place that the straight line to it reaches within the domain, (P, count).

    The nearest neighbour stays where none is in sight.

    Args:
        places: Nodes (P,). near: Neighbours (P, K), nearest first, -1 for none.
        sides: Of the boundary (B, 2). locator: Of the mesh.
    """
    from scipy.spatial import cKDTree

    there = near >= 0
    start, end = np.broadcast_to(nodes[places][:, None], (*near.shape, 2)), nodes[near]
    seen = there.copy()
    a, b = nodes[sides[:, 0]], nodes[sides[:, 1]]
    _, close = cKDTree((a + b) / 2).query(nodes[places], k=min(SIDES, len(sides)))
    for first in range(0, len(places), step := max(1, BLOCK // (near.shape[1] * close.shape[1]))):
        rows = slice(first, first + step)
        p, q = start[rows, :, None], end[rows, :, None]
        c, d = a[close[rows]][:, None], b[close[rows]][:, None]
        ways = [_turn(p, q, c), _turn(p, q, d), _turn(c, d, p), _turn(c, d, q)]
        # What only touches a side does not cross it.
        least = 1e-9 * np.maximum(((q - p) ** 2).sum(axis=-1), ((d - c) ** 2).sum(axis=-1))
        cut = (ways[0] * ways[1] < 0) & (ways[2] * ways[3] < 0) & (np.minimum.reduce(np.abs(ways)) > least)
        seen[rows] &= ~cut.any(axis=2)
    for share in (0.1, 0.5, 0.9):
        between = start[seen] + share * (end[seen] - start[seen])
        seen[seen] = locator.find(torch.from_numpy(between))[0].numpy() >= 0
    seen[:, 0] |= there[:, 0] & ~seen.any(axis=1)
    order = np.argsort(~seen, axis=1, kind="stable")[:, :count]
    return np.where(np.take_along_axis(seen, order, axis=1), np.take_along_axis(near, order, axis=1), -1)


def inward(nodes: Array, triangles: Index) -> Array:
    """From each node to the mean of the middles of its triangles, (N, 2)."""
    total = np.zeros_like(nodes)
    np.add.at(total, triangles.ravel(), np.repeat(nodes[triangles].mean(axis=1), 3, axis=0))
    count = np.bincount(triangles.ravel(), minlength=len(nodes))
    return np.asarray(total / np.maximum(count, 1)[:, None] - nodes * (count > 0)[:, None])


def one_side(nodes: Array, places: Index, near: Index, inside: Array) -> Index:
    """Neighbours (P, K) without those across a slit, whose nodes stand twice at one position: -1 instead.

    Of two neighbours at one position the nearer along the mesh stays; none is seen through a position that is twice,
    and from a node there only those on its own side are.

    Args:
        inside: Of every node, as of `inward`.
    """
    position = np.unique(nodes, axis=0, return_inverse=True)[1].reshape(-1)
    twice = np.bincount(position)[position] > 1
    if not twice.any():
        return near
    found = near.copy()
    for k in range(1, near.shape[1]):
        again = (position[found[:, :k]] == position[found[:, k], None]) & (found[:, :k] >= 0)
        found[again.any(axis=1), k] = -1
    seams = np.unique(nodes[twice], axis=0)
    start, end = nodes[places][:, None], nodes[found]
    length = np.linalg.norm(end - start, axis=2)
    for node, way in ((places[:, None], end - start), (found, start - end)):
        behind = (way * inside[node]).sum(axis=2) < -1e-9 * length * np.linalg.norm(inside[node], axis=2)
        found[twice[node] & behind] = -1
    for seam in seams:
        away = np.abs(_turn(start, end, seam))
        along = ((seam - start) * (end - start)).sum(axis=2)
        within = (along > 1e-9 * length**2) & (along < (1 - 1e-9) * length**2)
        found[within & (away <= 1e-9 * length**2)] = -1
    return found


def _turn(a: Array, b: Array, c: Array) -> Array:
    return np.asarray((b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0])


def local_weights(nodes: Array, places: Array, near: Index, gradient: bool = False) -> Array:
    """Weights of the neighbours: the cubic spline r^3 through them that is exact for quadratics.

    Where that would enlarge noise, or neighbours are few or on a line, a fit by least squares takes its place, to a
    quadratic, then a linear function, then a constant.

    Args:
        nodes: (N, 2). places: (P, 2). near: Neighbours (P, K), -1 for none.
        gradient: Whether weights of both derivatives are wanted too.
    Returns: (P, K, 1), or (P, K, 3): of the value, d/dx, d/dy.
    """
    there = near >= 0
    away = nodes[near] - places[:, None]
    scale = np.linalg.norm(away, axis=2)
    scale = np.where(there, scale, 0).max(axis=1)
    scale[scale == 0] = 1
    x = np.where(there[..., None], away / scale[:, None, None], 0)
    wanted = 3 if gradient else 1
    found = _spline(x, there, wanted)
    # For slopes the bound is on weights times distance, as for values of a Taylor polynomial.
    bad = ~np.isfinite(found).all(axis=(1, 2)) | (np.abs(found[..., 0]).sum(axis=1) > NOISE)
    bad |= (np.abs(found[..., 1:]).sum(axis=1) > 8 * NOISE).any(axis=1)
    for degree in (2, 1, 0):
        if not bad.any():
            break
        found[bad] = _least_squares(x[bad], there[bad], wanted, degree)
        bad[bad] = (np.abs(found[bad][..., 0]).sum(axis=1) > NOISE) | (
            np.abs(found[bad][..., 1:]).sum(axis=1) > 8 * NOISE
        ).any(axis=1)
    found[..., 1:] /= scale[:, None, None]
    return found


def _monomials(x: Array, degree: int) -> Array:
    one = np.ones(x.shape[:-1])
    a, b = x[..., 0], x[..., 1]
    return np.stack([one, a, b, a * a, a * b, b * b][: (1, 3, 6)[degree]], axis=-1)


def _spline(x: Array, there: Mask, wanted: int) -> Array:
    """r^3 with quadratics; places without enough neighbours give NaN."""
    p, k = there.shape
    matrix = np.zeros((p, k + 6, k + 6))
    matrix[:, :k, :k] = np.linalg.norm(x[:, :, None] - x[:, None], axis=3) ** 3
    quadratics = _monomials(x, 2) * there[..., None]
    matrix[:, :k, k:], matrix[:, k:, :k] = quadratics, quadratics.transpose(0, 2, 1)
    # A neighbour that is not there has weight 0.
    gone = ~there
    matrix[:, :k, :k] *= there[:, :, None] & there[:, None]
    matrix[:, np.arange(k), np.arange(k)] += gone
    right = np.zeros((p, k + 6, wanted))
    r = np.linalg.norm(x, axis=2) * there
    right[:, :k, 0], right[:, k, 0] = r**3, 1
    if wanted > 1:
        right[:, :k, 1:], right[:, k + 1, 1], right[:, k + 2, 2] = -3 * r[..., None] * x * there[..., None], 1, 1
    good = there.sum(axis=1) >= 7
    # Neighbours on a line or a conic leave the quadratics undetermined.
    good[good] &= np.linalg.matrix_rank(quadratics[good], tol=1e-4) == 6
    out = np.full((p, k, wanted), np.nan)
    if good.any():
        out[good] = np.linalg.solve(matrix[good], right[good])[:, :k]
    return out


def _least_squares(x: Array, there: Mask, wanted: int, degree: int) -> Array:
    """Weights of a polynomial fitted with weights that fall with distance."""
    r = np.linalg.norm(x, axis=2)
    share = np.where(there, (1.001 - np.minimum(r, 1)) ** 2 / (r**2 + 1e-3), 0)
    basis = _monomials(x, degree)
    root = np.sqrt(share)[..., None]
    inverse = np.linalg.pinv(basis * root, rcond=1e-3)
    rows = min(wanted, basis.shape[-1])
    out = np.zeros((*there.shape, wanted))
    # Coefficients 0, 1 and 2 of the polynomial around the place are its value and slopes there.
    out[..., :rows] = (inverse[:, :rows] * root[..., 0][:, None]).transpose(0, 2, 1)
    total = out[..., 0].sum(axis=1, keepdims=True)
    out[..., 0] /= np.where(total == 0, 1, total)
    return out
