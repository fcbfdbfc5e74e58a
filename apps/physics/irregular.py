"""Domains with holes and thin walls: C1 cubics on the triangles of a mesh, known at a few of its nodes.

Two fixed maps in a row: from the chosen nodes to all nodes of the mesh, by neighbours that see each other along it;
from those to any point, by Clough and Tocher's cubics with slopes from neighbours. Both are local: what is on one side
of a wall has no part in the field on the other side.
Shapes: N nodes of the mesh, n chosen ones, M triangles, E directed edges; coefficients: N values, then E slopes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from farfield.apps.physics import clough_tocher
from farfield.apps.physics.local_fit import in_sight, inward, local_weights, neighbours, one_side, ways
from farfield.apps.physics.locate import Locator
from farfield.apps.physics.mesh import Cells
from farfield.apps.physics.rims import Rim, border, rims, side_slopes, trace_weights, triangles_of
from farfield.apps.physics.space import PIECE, SpaceMap, Stencil, look_up
from farfield.core_ops.errors import DomainError, ShapeError

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# Neighbours that give a value at a node that was not chosen, and the slopes at a node.
NEAR_VALUE, NEAR_SLOPE = 14, 13
# Exact for cubics on a triangle, three parts of it taken each: barycentric places and weights.
_A, _B = 0.445948490915965, 0.091576213509771
_QUADRATURE = [(a, 0.223381589678011) for a in (_A,) * 3] + [(b, 0.109951743655322) for b in (_B,) * 3]


class Irregular(SpaceMap):
    """A field on a mesh of triangles (or quads, which are cut), known at chosen nodes.

    Args:
        nodes: (N, 2). cells: Triangles and quads by kind.
        boundary: Nodes of the mesh by part.
        chosen: Nodes of the mesh where values are wanted; None is all. See `coarsen.choose`.
        held: Parts where values are given: there the field depends on the nodes of that part alone, so that a constant
            is met exactly.
    Raises: ShapeError: not in a plane; DomainError: a cell without area, a node that sees no chosen one.
    Complexity: O(N^2) once, O(1) a point.
    """

    def __init__(
        self,
        nodes: Array,
        cells: Cells,
        boundary: Mapping[str, Index] | None = None,
        chosen: Index | Tensor | None = None,
        held: Sequence[str] = (),
    ) -> None:
        super().__init__()
        places = np.ascontiguousarray(nodes, np.float64)
        if places.ndim != 2 or places.shape[1] != 2:
            raise ShapeError(f"Irregular: nodes of shape {places.shape} came; needed: (N, 2), a mesh in a plane.")
        triangles = triangles_of(places, cells)
        parts = {tag: np.asarray(index, np.int64) for tag, index in (boundary or {}).items()}
        if missing := [tag for tag in held if tag not in parts]:
            raise ShapeError(f"Irregular: held={missing} came; the parts of the boundary are {', '.join(parts)}.")
        pick = np.arange(len(places)) if chosen is None else np.unique(np.asarray(chosen, np.int64))
        graph = ways(places, triangles)
        lines = rims(places, triangles, parts, held)
        sight = Sight(graph, places, border(triangles), Locator(places, triangles), inward(places, triangles))
        extension = _extension(sight, pick, lines)
        ends, slopes = _slopes(sight, triangles, lines)
        self._set(places, triangles, parts, list(held), pick, extension, ends, slopes)

    def _set(
        self,
        places: Array,
        triangles: Index,
        parts: dict[str, Index],
        held: list[str],
        pick: Index,
        extension: Any,
        ends: Index,
        slopes: Any,
    ) -> None:
        from scipy import sparse

        self.mesh_nodes, self.triangles, self.parts, self.held = places, triangles, parts, held
        self.chosen = torch.from_numpy(pick)
        self.nodes = torch.from_numpy(places[pick])
        rank = np.full(len(places), -1)
        rank[pick] = np.arange(len(pick))
        self.boundary = {tag: torch.from_numpy(r[r >= 0]) for tag, r in ((t, rank[i]) for t, i in parts.items())}
        self._slopes, self._ends = slopes, ends
        self._extension = extension
        self._fit = sparse.vstack([extension, slopes @ extension]).tocsr()
        self._fit.data[np.abs(self._fit.data) < 1e-14] = 0
        self._fit.eliminate_zeros()
        self._maps: dict[Any, Tensor] = {}
        self._locator = Locator(places, triangles)
        self._sides = torch.from_numpy(_numbers(triangles, ends, len(places)).astype(np.int32))
        corners = places[triangles]
        self._areas = torch.from_numpy(np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1])) / 2)
        centre = corners.mean(axis=1)
        start, end = corners[:, [1, 2, 0]], corners[:, [2, 0, 1]]
        along = end - start
        foot = ((centre[:, None] - start) * along).sum(axis=2) / (along**2).sum(axis=2)
        feet = clough_tocher.rotated(torch.from_numpy(foot))
        self._feet = {torch.float64: feet, torch.float32: feet.float()}
        self.extension = _sparse(extension, torch.float64)

    def coefficients(self, values: Tensor) -> Tensor:
        """(..., n, C) to (..., m, C): values at all nodes of the mesh and slopes along all edges."""
        key = (values.dtype, values.device)
        if key not in self._maps:
            self._maps[key] = _sparse(self._fit, values.dtype).to(values.device)
        flat = values.movedim(-2, 0)
        found = self._maps[key] @ flat.reshape(len(flat), -1)
        return found.reshape(-1, *flat.shape[1:]).movedim(0, -2)

    def stencil(
        self,
        points: Tensor,
        derivative: Sequence[int] | None = None,
        shift: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Stencil:
        """As of `SpaceMap.stencil`; K = 9."""
        points = self.checked(points)
        orders = self.orders(derivative)
        if sum(orders) > 2:
            raise ShapeError(f"derivative={derivative}: cubics on triangles have two derivatives, not {sum(orders)}.")
        triangle, place = self._locator.find(points)
        if len(triangle) and int(triangle.min()) < 0:
            self.refuse(points, triangle >= 0)
        found = self._at(triangle, place, orders, dtype)
        return found if shift is None else Stencil(found.at + shift.int()[:, None], found.weights)

    def _at(
        self, triangle: Tensor, place: Tensor, orders: tuple[int, ...], dtype: torch.dtype = torch.float64
    ) -> Stencil:
        part, turn, w = clough_tocher.part_of(triangle, place)
        # Slopes grow as triangles shrink: those are taken in float64.
        feet = self._feet[torch.float64 if any(orders) else dtype].index_select(0, part).mT.contiguous()
        along = []
        for axis, count in enumerate(orders):
            if count:
                slopes = self._locator.slopes(triangle, axis).gather(0, turn)
                along += [clough_tocher.in_part(slopes)] * count
        weights = clough_tocher.weights(w, feet, along)
        return Stencil(self._sides.index_select(0, part), weights.to(dtype))

    def triangle_at(self, points: Tensor) -> Tensor:
        """The triangle of every point (Q, 2), -1 outside: (Q,)."""
        return self._locator.find(self.checked(points))[0]

    def weights_in(self, triangle: Tensor, points: Tensor) -> Any:
        """The sparse map from values at `nodes` to points (Q, 2), as their triangles (Q,) give them, (Q, n).

        A point outside of its triangle takes what the triangle's nearest corner or side has.
        """
        from scipy import sparse

        place = self._locator.coordinates(self.checked(points), triangle).clamp_(min=0)
        index, weights = self._at(triangle, place / place.sum(0), (0, 0))
        rows = np.repeat(np.arange(len(index)), index.shape[1])
        shape = (len(index), self._fit.shape[0])
        return sparse.coo_matrix((weights.numpy().ravel(), (rows, index.numpy().ravel())), shape=shape) @ self._fit

    def build_matrix(self, points: Tensor, orders: tuple[int, ...]) -> Tensor:
        """`matrix` in float64, from stencils and the sparse map of coefficients."""
        table = torch.from_numpy(self._fit.toarray())
        return torch.cat([look_up(table, *self.stencil(p, orders)) for p in torch.split(points, PIECE)])

    def contains(self, points: Tensor) -> Tensor:
        """As of `SpaceMap.contains`."""
        return self._locator.find(self.checked(points))[0] >= 0

    def integral(self) -> Tensor:
        """As of `SpaceMap.integral`; exact for the cubics."""
        total = torch.zeros(self._fit.shape[0], dtype=torch.float64)
        every = torch.arange(len(self.triangles))
        third = torch.full((3,), 1 / 3, dtype=torch.float64)
        for part in range(3):
            corners = torch.eye(3, dtype=torch.float64)
            corners[part] = third
            for n, (a, weight) in enumerate(_QUADRATURE):
                inner = torch.full((3,), a, dtype=torch.float64)
                inner[n % 3] = 1 - 2 * a
                index, w = self._at(every, (inner @ corners)[:, None].expand(3, len(every)), (0, 0))
                total.index_add_(0, index.flatten(), (w * self._areas[:, None] * (weight / 3)).flatten())
        return torch.from_numpy(self._fit.T @ total.numpy())

    def mesh(self, resolution: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The mesh itself."""
        return torch.from_numpy(self.mesh_nodes), {"triangle": torch.from_numpy(self.triangles)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON."""
        tensors = {"mesh": torch.from_numpy(self.mesh_nodes), "triangles": torch.from_numpy(self.triangles)}
        tensors |= {"chosen": self.chosen, "ends": torch.from_numpy(self._ends)}
        tensors |= {f"part{k}": torch.from_numpy(index) for k, index in enumerate(self.parts.values())}
        for name, matrix in (("extension", self._extension), ("slopes", self._slopes)):
            tensors |= {f"{name}.start": torch.from_numpy(matrix.indptr.astype(np.int64))}
            tensors |= {f"{name}.index": torch.from_numpy(matrix.indices.astype(np.int64))}
            tensors |= {f"{name}.value": torch.from_numpy(matrix.data)}
        return tensors, {"kind": "irregular", "parts": list(self.parts), "held": self.held}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Irregular:
        """The map that `state` described."""
        from scipy import sparse

        made = cls.__new__(cls)
        SpaceMap.__init__(made)
        mesh, chosen, ends = (tensors[name].numpy() for name in ("mesh", "chosen", "ends"))
        found = {}
        for name, shape in (("extension", (len(mesh), len(chosen))), ("slopes", (len(ends), len(mesh)))):
            value, index, start = (tensors[f"{name}.{what}"].numpy() for what in ("value", "index", "start"))
            found[name] = sparse.csr_matrix((value, index, start), shape=shape)
        parts = {tag: tensors[f"part{k}"].numpy() for k, tag in enumerate(about["parts"])}
        made._set(
            mesh,
            tensors["triangles"].numpy(),
            parts,
            list(about["held"]),
            chosen,
            found["extension"],
            ends,
            found["slopes"],
        )
        return made


def _sparse(matrix: Any, dtype: torch.dtype) -> Tensor:
    matrix = matrix.tocoo()
    index = torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64))
    return torch.sparse_coo_tensor(
        index, torch.from_numpy(matrix.data).to(dtype), matrix.shape, check_invariants=True
    ).coalesce()


@dataclass(frozen=True)
class Sight:
    """What it takes to know which nodes see each other."""

    graph: Any
    nodes: Array
    sides: Index
    locator: Locator
    inside: Array

    def near(self, places: Index, sources: Index, count: int) -> Index:
        """The nearest sources in sight of each place, (P, count), -1 for none."""
        # Some of the nearest are hidden: half as many again are looked at.
        found = neighbours(self.graph, self.nodes, places, sources, count + count // 2)
        found = one_side(self.nodes, places, found, self.inside)
        return in_sight(self.nodes, places, found, self.sides, self.locator, count)


def _extension(sight: Sight, chosen: Index, lines: list[Rim]) -> Any:
    """Values at all nodes from those at the chosen ones, (N, n)."""
    from scipy import sparse

    nodes = sight.nodes
    rank = np.full(len(nodes), -1)
    rank[chosen] = np.arange(len(chosen))
    rows, columns, data = [chosen], [rank[chosen]], [np.ones(len(chosen))]
    done = rank >= 0
    for line in lines:
        node, source, weight = trace_weights(nodes, line, rank >= 0)
        fresh = ~done[node]
        rows.append(np.repeat(node[fresh], source.shape[1]))
        columns.append(rank[source[fresh]].ravel())
        data.append(weight[fresh].ravel())
        done[node] = True
    rest = np.flatnonzero(~done)
    if len(rest):
        near = sight.near(rest, chosen, NEAR_VALUE)
        if (lost := (near < 0).all(axis=1)).any():
            place = ", ".join(f"{x:g}" for x in nodes[rest[lost][0]])
            raise DomainError(
                f"Irregular: {lost.sum()} nodes of the mesh see no chosen node, the first at ({place}); choose more"
            )
        weight = local_weights(nodes, nodes[rest], near)[..., 0]
        there = near >= 0
        rows.append(np.repeat(rest, near.shape[1])[there.ravel()])
        columns.append(rank[near[there]])
        data.append(weight[there])
    index = (np.concatenate(rows), np.concatenate(columns))
    return sparse.coo_matrix((np.concatenate(data), index), shape=(len(nodes), len(chosen))).tocsr()


def _slopes(sight: Sight, triangles: Index, lines: list[Rim]) -> tuple[Index, Any]:
    """Directed edges (E, 2) and their slopes from the values at all nodes, (E, N)."""
    from scipy import sparse

    nodes = sight.nodes
    every = np.arange(len(nodes))
    pairs = np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 0), (1, 2), (2, 1), (2, 0), (0, 2))])
    ends = np.unique(pairs, axis=0)
    near = sight.near(every, every, NEAR_SLOPE)
    gradient = local_weights(nodes, nodes, near, gradient=True)[..., 1:]
    along = nodes[ends[:, 1]] - nodes[ends[:, 0]]
    weight = (gradient[ends[:, 0]] * along[:, None]).sum(axis=2)
    source = near[ends[:, 0]]
    rows = np.repeat(np.arange(len(ends)), source.shape[1])
    own = np.ones(len(ends), bool)
    key = ends[:, 0] * len(nodes) + ends[:, 1]
    parts = []
    for line in lines:
        pair, others, w = side_slopes(nodes, line)
        row = np.searchsorted(key, pair[:, 0] * len(nodes) + pair[:, 1])
        own[row] = False
        parts.append((np.repeat(row, others.shape[1]), others.ravel(), w.ravel()))
    keep = (source >= 0) & own[:, None]
    parts.append((rows[keep.ravel()], source[keep], weight[keep]))
    row, column, data = (np.concatenate([p[k] for p in parts]) for k in range(3))
    return ends, sparse.coo_matrix((data, (row, column)), shape=(len(ends), len(nodes))).tocsr()


def _numbers(triangles: Index, ends: Index, count: int) -> Index:
    """Coefficients of the nine numbers of each triangle's three parts, (3 M, 9), in the order of `clough_tocher`."""
    key = ends[:, 0] * count + ends[:, 1]
    found = np.empty((len(triangles), 3, 9), np.int64)
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        found[:, k, :3] = triangles[:, [i, j, k]]
        for n, (a, b) in enumerate(((i, j), (i, k), (j, k), (j, i), (k, i), (k, j))):
            found[:, k, 3 + n] = count + np.searchsorted(key, triangles[:, a] * count + triangles[:, b])
    return found.reshape(-1, 9)
