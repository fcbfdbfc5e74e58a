"""What a mesh has to be before anything is computed on it: cells that are not inverted, in one piece.

Shapes: N nodes, D dimensions, M cells of one kind, K corners of a cell.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from farfield.apps.training import UserError

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Cells = dict[str, Index]

# Corners of a cell and, where it has an orientation, the simplices whose signed sizes add up to its own.
CORNERS = {"line": 2, "triangle": 3, "quad": 4, "tetra": 4, "pyramid": 5, "wedge": 6, "hexahedron": 8}
DIMENSION = {"line": 1, "triangle": 2, "quad": 2, "tetra": 3, "pyramid": 3, "wedge": 3, "hexahedron": 3}
SIMPLICES: dict[str, list[tuple[int, ...]]] = {
    "line": [(0, 1)],
    "triangle": [(0, 1, 2)],
    "quad": [(0, 1, 2), (0, 2, 3)],
    "tetra": [(0, 1, 2, 3)],
    "pyramid": [(0, 1, 2, 4), (0, 2, 3, 4)],
    "wedge": [(0, 2, 1, 3), (1, 2, 4, 3), (2, 5, 4, 3)],
    "hexahedron": [(0, 1, 3, 4), (1, 2, 3, 6), (1, 6, 3, 4), (4, 6, 5, 1), (4, 7, 6, 3)],
}
EDGES: dict[str, list[tuple[int, ...]]] = {
    "line": [(0, 1)],
    "triangle": [(0, 1), (1, 2), (2, 0)],
    "quad": [(0, 1), (1, 2), (2, 3), (3, 0)],
    "tetra": [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)],
    "pyramid": [(0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (1, 4), (2, 4), (3, 4)],
    "wedge": [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (0, 3), (1, 4), (2, 5)],
    "hexahedron": [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)],
}
SIDES: dict[str, list[tuple[int, ...]]] = {
    "line": [(0,), (1,)],
    "triangle": EDGES["triangle"],
    "quad": EDGES["quad"],
    "tetra": [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)],
    "pyramid": [(0, 1, 2, 3), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)],
    "wedge": [(0, 1, 2), (3, 4, 5), (0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5)],
    "hexahedron": [(0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)],
}
# Cells with nodes on their edges become cells of corners only: {kind: (new kind, its corners)}.
SPLIT: dict[str, tuple[str, list[tuple[int, ...]]]] = {
    "line3": ("line", [(0, 2), (2, 1)]),
    "triangle6": ("triangle", [(0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)]),
    "quad9": ("quad", [(0, 4, 8, 7), (4, 1, 5, 8), (8, 5, 2, 6), (7, 8, 6, 3)]),
}
FACTORIAL = {1: 1, 2: 2, 3: 6}


def measures(nodes: Array, cells: Cells) -> dict[str, Array]:
    """Signed length, area or volume of every cell (M,), by kind; unsigned for a surface in space."""
    return {kind: _measure(nodes, kind, index) for kind, index in cells.items()}


def _measure(nodes: Array, kind: str, index: Index) -> Array:
    total = np.zeros(len(index))
    for simplex in SIMPLICES[kind]:
        corners = nodes[index[:, list(simplex)]]
        sides = corners[:, 1:] - corners[:, :1]
        k = sides.shape[1]
        if k == sides.shape[2]:
            total += np.linalg.det(sides) / FACTORIAL[k]
        else:
            gram = sides @ sides.transpose(0, 2, 1)
            total += np.sqrt(np.maximum(np.linalg.det(gram), 0)) / FACTORIAL[k]
    return total


def oriented(nodes: Array, cells: Cells) -> tuple[Cells, list[str]]:
    """Cells of the highest dimension, all of positive size; what stands in the way as messages.

    A mesh that is left-handed throughout is turned; one that is so in part has inverted cells.
    """
    if not cells:
        return {}, []
    top = max(DIMENSION[kind] for kind in cells)
    cells = {kind: index for kind, index in cells.items() if DIMENSION[kind] == top and len(index)}
    found = measures(nodes, cells)
    sizes = np.concatenate(list(found.values()))
    if len(sizes) and (sizes < 0).all():
        cells = {kind: _turned(kind, index) for kind, index in cells.items()}
        found = {kind: -size for kind, size in found.items()}
    problems = []
    scale = float(np.median(np.abs(sizes))) if len(sizes) else 0.0
    for kind, size in found.items():
        for what, bad in (("inverted", size < -1e-12 * scale), ("of no size", np.abs(size) <= 1e-12 * scale)):
            if bad.any():
                which = ", ".join(map(str, np.flatnonzero(bad)[:5]))
                problems.append(
                    f"{bad.sum():,} of {len(size):,} {kind} cells are {what} (the first: {which}); repair the mesh"
                    " (in ParaView: Clean to Grid, then Mesh Quality finds them) and write it again"
                )
    return cells, problems


def _turned(kind: str, index: Index) -> Index:
    order = {"pyramid": [0, 3, 2, 1, 4], "wedge": [3, 4, 5, 0, 1, 2], "hexahedron": [4, 5, 6, 7, 0, 1, 2, 3]}
    if kind in order:
        return index[:, order[kind]]
    if kind == "tetra":
        return index[:, [0, 2, 1, 3]]
    return index[:, ::-1]


def simplified(cells: Mapping[str, Index]) -> Cells:
    """Cells of corners only.

    Raises: UserError: a kind of cell that is not accepted.
    """
    found: dict[str, list[Index]] = {}
    for kind, index in cells.items():
        if kind == "vertex":
            continue
        if kind in SPLIT:
            to, parts = SPLIT[kind]
            found.setdefault(to, []).extend(np.asarray(index, np.int64)[:, list(part)] for part in parts)
        elif kind in CORNERS:
            found.setdefault(kind, []).append(np.asarray(index, np.int64))
        else:
            raise UserError(
                f"the mesh has cells of the kind {kind!r}; accepted: {', '.join([*CORNERS, *SPLIT])}; triangulate it"
                " first (in ParaView: the filter Tetrahedralize)"
            )
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def edges(cells: Cells) -> Index:
    """Pairs of nodes (E, 2) that share an edge of a cell, each once, the smaller number first."""
    found = [index[:, list(pair)] for kind, index in cells.items() for pair in EDGES[kind]]
    if not found:
        return np.empty((0, 2), np.int64)
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def seam_edges(nodes: Array, period: tuple[float | None, ...], pairs: Index) -> Index:
    """Pairs of nodes (E, 2) that are neighbours across the seam of an axis that wraps around.

    A node within two typical edges of the low end is joined to the nearest node at the high end, one period away.
    """
    from scipy.spatial import cKDTree

    found = [np.empty((0, 2), np.int64)]
    if not len(pairs):
        return found[0]
    reach = 2 * float(np.median(np.linalg.norm(nodes[pairs[:, 0]] - nodes[pairs[:, 1]], axis=1)))
    for axis, length in enumerate(period):
        if length is None:
            continue
        x = nodes[:, axis]
        low, high = np.flatnonzero(x < x.min() + reach), np.flatnonzero(x + reach > x.min() + length)
        image = nodes[low].copy()
        image[:, axis] += length
        if len(high):
            away, nearest = cKDTree(nodes[high]).query(image)
            near = away < reach
            found.append(np.sort(np.stack([low[near], high[nearest[near]]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def pieces(count: int, pairs: Index) -> Index:
    """Number of the connected piece of every node (N,), the largest piece first."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(-np.bincount(label), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.asarray(rank[label], np.int64)


def rim(cells: Cells) -> Index:
    """Nodes on the sides that belong to one cell only: the boundary of the mesh."""
    by_size: dict[int, list[Index]] = {}
    for kind, index in cells.items():
        for side in SIDES[kind]:
            by_size.setdefault(len(side), []).append(index[:, list(side)])
    found = []
    for parts in by_size.values():
        sides = np.concatenate(parts)
        _, where, count = np.unique(np.sort(sides, axis=1), axis=0, return_index=True, return_counts=True)
        found.append(sides[where[count == 1]].ravel())
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)


def cells_to_points(nodes: Array, cells: Cells, values: dict[str, Array]) -> Array:
    """Means of the cells around each node, weighted by their sizes.

    Args:
        nodes: (N, D). cells: The mesh. values: (M, C) by kind.
    Returns: (N, C); NaN at nodes of no cell.
    """
    width = next(iter(values.values())).shape[1]
    total, weight = np.zeros((len(nodes), width)), np.zeros(len(nodes))
    for kind, size in measures(nodes, cells).items():
        size = np.abs(size)
        for corner in cells[kind].T:
            weight += np.bincount(corner, size, len(nodes))
            for k in range(width):
                total[:, k] += np.bincount(corner, size * values[kind][:, k], len(nodes))
    with np.errstate(invalid="ignore"):
        return np.asarray(total / weight[:, None])


def grid_cells(shape: tuple[int, ...]) -> Cells:
    """Cells of a structured grid whose nodes are numbered with the last axis fastest: lines, quads or hexahedra."""
    number = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    if len(shape) == 1:
        return {"line": np.stack([number[:-1], number[1:]], axis=1)}
    low, high = slice(None, -1), slice(1, None)
    if len(shape) == 2:
        corners = [(low, low), (high, low), (high, high), (low, high)]
        return {"quad": np.stack([number[c].ravel() for c in corners], axis=1)}
    base = [(low, low), (high, low), (high, high), (low, high)]
    corners3 = [number[(*c, z)].ravel() for z in (low, high) for c in base]
    return {"hexahedron": np.stack(corners3, axis=1)}
