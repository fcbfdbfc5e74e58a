"""Graphs over nodes: who hears whom, laid out so that messages are summed without scattering.

Shapes: n nodes in D dimensions, M neighbours a node at most, E = n M slots, slot i M + k is what node i hears from its
k-th neighbour; free slots are told by `mask`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from farfield.apps.physics.case import Array, Index
from farfield.apps.physics.mesh import pieces
from farfield.apps.training import UserError

# Two nodes are joined when this many points between them lie in the domain.
SIGHT = 9


@dataclass(frozen=True)
class Graph:
    """A symmetric graph with padded rows.

    Args:
        source: (E,) int64, the neighbour a slot hears; the node itself where the slot is free.
        outgoing: (E,) int64, the slots that hear node i in row i: `source` turned around.
        mask: (n, M) bool, the slots that are taken.
        features: (E, D + 1) float32: the neighbour's direction and distance, in units of the mean edge.
    """

    source: Tensor
    outgoing: Tensor
    mask: Tensor
    features: Tensor

    @property
    def nodes(self) -> int:
        """n."""
        return self.mask.shape[0]

    @property
    def degree(self) -> int:
        """M."""
        return self.mask.shape[1]

    @cached_property
    def index(self) -> Tensor:
        """(2, E): neighbour and hearer of each slot, as torch-geometric has it."""
        hearer = torch.arange(self.nodes, device=self.source.device).repeat_interleave(self.degree)
        return torch.stack([self.source, hearer])

    def to(self, device: torch.device) -> Graph:
        """The graph on a device; itself where it is there already."""
        if self.source.to(device) is self.source:
            return self
        return Graph(*(x.to(device) for x in (self.source, self.outgoing, self.mask, self.features)))


def graph_of(nodes: Array, pairs: Index, period: tuple[float | None, ...] = ()) -> Graph:
    """The graph of some pairs of nodes.

    Args:
        nodes: (n, D). pairs: (E, 2), each once, in any order. period: Length of the axes that wrap around.
    Raises: UserError: nodes that no path of pairs joins; NaN among the nodes.
    """
    n = len(nodes)
    if not np.isfinite(nodes).all():
        bad = np.flatnonzero(~np.isfinite(nodes).all(axis=1))
        raise UserError(f"{len(bad)} of {n} nodes have no position (the first: {bad[0]}); repair the mesh")
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    sizes = np.bincount(pieces(n, pairs))
    if len(sizes) > 1:
        raise UserError(
            f"the graph of {n} nodes falls into {len(sizes)} pieces, of {', '.join(map(str, sizes[:4]))} nodes: nothing"
            " passes from one to another; take more nodes or neighbours, or graph=delaunay"
        )
    both = np.concatenate([pairs, pairs[:, ::-1]])
    hearer, source = both[np.lexsort((both[:, 1], both[:, 0]))].T if n > 1 else both.T
    count = np.bincount(hearer, minlength=n)
    width = int(count.max(initial=1))
    rank = np.arange(len(hearer)) - np.repeat(np.cumsum(count) - count, count)
    slot = hearer * width + rank
    table = np.repeat(np.arange(n), width)
    table[slot] = source
    mask = np.zeros(n * width, bool)
    mask[slot] = True
    # Row i of outgoing: the slots in which others hear i; free places point at a slot of i's own that is free too.
    free = np.repeat(np.arange(n) * width + width - 1, width)
    outgoing = free.copy()
    order = np.lexsort((hearer, source))
    outgoing[source[order] * width + rank] = slot[order]
    away = nodes[table] - np.repeat(nodes, width, axis=0)
    for axis, length in enumerate(period):
        if length is not None:
            away[:, axis] -= length * np.round(away[:, axis] / length)
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    unit = float(distance[mask].mean()) if mask.any() else 1.0
    features = np.concatenate([away, distance], axis=1) / unit
    return Graph(
        torch.from_numpy(table),
        torch.from_numpy(outgoing),
        torch.from_numpy(mask.reshape(n, width)),
        torch.from_numpy(features).float(),
    )


def grid_pairs(shape: tuple[int, ...], around: tuple[bool, ...], levels: int = 1) -> Index:
    """Neighbours and diagonal neighbours on a grid, and those 2, 4, .. places away at further levels.

    Args:
        shape: Nodes along each axis, the last one fastest. around: Axes that wrap around.
        levels: 1 or more.
    Returns: (E, 2).
    """
    number = np.arange(int(np.prod(shape))).reshape(shape)
    found = []
    for level in range(levels):
        step = 2**level
        for offset in np.ndindex(*(3,) * len(shape)):
            shift = [(o - 1) * step for o in offset]
            if not any(shift) or any(abs(s) >= n for s, n in zip(shift, shape, strict=True)):
                continue
            here, there = number, number
            for axis, s in enumerate(shift):
                if around[axis]:
                    there = np.roll(there, -s, axis)
                elif s:
                    n = shape[axis]
                    low, high = max(0, -s), min(n, n - s)
                    here = np.take(here, range(low, high), axis)
                    there = np.take(there, range(low + s, high + s), axis)
            found.append(np.stack([here.ravel(), there.ravel()], axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def delaunay_pairs(nodes: Array, inside: Callable[[Array], Array] | None = None) -> Index:
    """Edges of Delaunay's triangulation (tetrahedra in space; neighbours on a line) that stay inside the domain.

    Args:
        nodes: (n, D). inside: Tells of points (Q, D) whether they lie in the domain; None is everywhere.
    """
    from scipy.spatial import Delaunay

    d = nodes.shape[1]
    if d == 1:
        order = np.argsort(nodes[:, 0])
        return np.stack([order[:-1], order[1:]], axis=1)
    corners = Delaunay(nodes).simplices
    pairs = np.concatenate([corners[:, [a, b]] for a in range(d + 1) for b in range(a)])
    return _visible(nodes, np.unique(np.sort(pairs, axis=1), axis=0), inside)


def nearest_pairs(nodes: Array, count: int, inside: Callable[[Array], Array] | None = None) -> Index:
    """Each node and its `count` nearest ones, as far as the way between them stays inside the domain."""
    from scipy.spatial import cKDTree

    count = min(count, len(nodes) - 1)
    _, found = cKDTree(nodes).query(nodes, count + 1)
    pairs = np.stack([np.repeat(np.arange(len(nodes)), count), found[:, 1:].ravel()], axis=1)
    return _visible(nodes, np.unique(np.sort(pairs, axis=1), axis=0), inside)


def _visible(nodes: Array, pairs: Index, inside: Callable[[Array], Array] | None) -> Index:
    if inside is None or not len(pairs):
        return pairs
    share = np.arange(1, SIGHT + 1) / (SIGHT + 1)
    a, b = nodes[pairs[:, 0], None], nodes[pairs[:, 1], None]
    way = a + (b - a) * share[:, None]
    return pairs[inside(way.reshape(-1, nodes.shape[1])).reshape(len(pairs), -1).all(axis=1)]


def territory_pairs(mesh_nodes: Array, mesh_pairs: Index, chosen: Index, levels: int = 1) -> Index:
    """Chosen nodes of a mesh are neighbours when their territories touch: nothing passes a wall or a hole.

    The territory of a node is what lies nearest to it along the mesh. Each further level joins a quarter of the nodes
    of the level before in the same way.

    Args:
        mesh_nodes: (M, D). mesh_pairs: (E, 2), edges of the mesh. chosen: (n,) numbers in the mesh.
    Returns: (E', 2), numbers among the chosen ones.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    size = len(mesh_nodes)
    length = np.linalg.norm(mesh_nodes[mesh_pairs[:, 0]] - mesh_nodes[mesh_pairs[:, 1]], axis=1)
    matrix = coo_matrix((length, (mesh_pairs[:, 0], mesh_pairs[:, 1])), shape=(size, size)).tocsr()
    rank = np.full(size, -1)
    rank[chosen] = np.arange(len(chosen))
    found, level = [], np.asarray(chosen)
    for _ in range(levels):
        _, _, owner = dijkstra(matrix, directed=False, indices=level, return_predecessors=True, min_only=True)
        sides = rank[np.where(owner[mesh_pairs] < 0, mesh_pairs, owner[mesh_pairs])]
        found.append(sides[(sides[:, 0] != sides[:, 1]) & (sides >= 0).all(axis=1)])
        if len(level) < 8:
            break
        level = _spread(matrix, level, len(level) // 4)
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _spread(matrix: object, nodes: Index, count: int) -> Index:
    """Some of the nodes, each as far as possible from those before it, along the mesh."""
    from scipy.sparse.csgraph import dijkstra

    kept = [int(nodes[0])]
    away = dijkstra(matrix, directed=False, indices=kept[0])
    while len(kept) < count:
        kept.append(int(nodes[np.argmax(np.where(np.isfinite(away[nodes]), away[nodes], -1))]))
        away = np.minimum(away, dijkstra(matrix, directed=False, indices=kept[-1]))
    return np.array(kept)
