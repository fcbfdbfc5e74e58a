"""A few nodes of a mesh that stand for all: spread evenly, or more closely where a density says so, walls counted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from farfield.apps.physics.local_fit import ways
from farfield.apps.physics.mesh import Cells
from farfield.apps.physics.rims import CORNER, border, triangles_of
from farfield.core_ops.errors import DomainError, ShapeError

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# The boundary takes nodes this much closer together than the interior: there nothing stands on the other side.
CLOSER = 1.4


def choose(
    nodes: Array,
    cells: Cells,
    count: int,
    boundary: Mapping[str, Index] | None = None,
    density: Array | None = None,
    seed: int = 0,
) -> Index:
    """Nodes of the mesh, each the farthest from those before it, by ways along the mesh.

    Args:
        nodes: (N, 2). cells: Triangles and quads. count: How many, with corners and both ends of every part.
        boundary: Nodes by part.
        density: (N,), wanted nodes per area up to a factor; None is the same everywhere.
        seed: Decides the first node of a mesh without corners.
    Returns: (count,), rising. The same arguments give the same nodes; fewer ones are a subset, up to the order.
    Raises: ShapeError: count is more than there are nodes, or fewer than the corners; DomainError: a density below 0.
    Complexity: O(count N log N), most of it for the first few nodes.
    """
    from scipy.sparse.csgraph import dijkstra

    triangles = triangles_of(nodes, cells)
    first = corners(nodes, triangles, boundary or {})
    if not 3 <= count <= len(nodes) or len(first) > count:
        raise ShapeError(
            f"choose: count={count}; the mesh has {len(first)} corners and {len(nodes)} nodes, 3 at least."
        )
    share = np.ones(len(nodes)) if density is None else np.asarray(density, np.float64)
    if share.shape != (len(nodes),) or not (share >= 0).all() or not np.isfinite(share).all():
        raise DomainError(f"choose: density of shape {share.shape}; needed: {len(nodes)} finite numbers of 0 or more.")
    # A tenth of the mean everywhere leaves no region without nodes.
    share = np.sqrt(np.maximum(share, 0.1 * share.mean()) / max(share.mean(), 1e-300)) if share.any() else share + 1
    share[np.unique(border(triangles))] *= CLOSER
    graph = ways(nodes, triangles)
    chosen = list(first) if len(first) else [int(np.random.default_rng(seed).integers(len(nodes)))]
    away = dijkstra(graph, indices=chosen, min_only=True)
    away[np.isinf(away)] = 1e3 * graph.data.sum()
    while len(chosen) < count:
        score = away * share
        score[chosen] = -1
        node = int(score.argmax())
        chosen.append(node)
        # Beyond the greatest distance so far nothing comes closer.
        away = np.minimum(away, dijkstra(graph, indices=node, limit=float(away.max()) + 1e-12))
    return np.sort(np.array(chosen, np.int64))


def corners(nodes: Array, triangles: Index, boundary: Mapping[str, Index]) -> Index:
    """Nodes of the boundary where it turns sharply, and where a part of it ends."""
    sides = border(triangles)
    direction: dict[int, list[Array]] = {}
    for a, b in sides.tolist():
        along = (nodes[b] - nodes[a]) / np.linalg.norm(nodes[b] - nodes[a])
        direction.setdefault(a, []).append(along)
        direction.setdefault(b, []).append(-along)
    found = {n for n, two in direction.items() if len(two) != 2 or -two[0] @ two[1] < CORNER}
    for index in boundary.values():
        on = np.zeros(len(nodes), bool)
        on[index] = True
        own = sides[on[sides].all(axis=1)]
        node, times = np.unique(own, return_counts=True)
        found |= set(node[times == 1].tolist())
    return np.array(sorted(found), np.int64)
