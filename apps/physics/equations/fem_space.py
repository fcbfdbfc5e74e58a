"""Quadratic finite elements on triangles whose sides follow round obstacles.

Degrees of freedom of the scalar space: first the vertices, in the order of the mesh, then the middles of the sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import skfem
from numpy.typing import NDArray
from scipy import sparse

from farfield.apps.physics.equations.domain import Disk, Domain

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class Quadratic:
    """The space P2, isoparametric: its values and gradients at quadrature points as sparse matrices.

    Args:
        domain: Gives the parts of the boundary.
        nodes: Vertices (N, 2).
        triangles: (M, 3).
    """

    def __init__(self, domain: Domain, nodes: Array, triangles: Index) -> None:
        straight = skfem.MeshTri(np.ascontiguousarray(nodes.T), np.ascontiguousarray(triangles.T))
        self.mesh = _curved(straight, domain)
        self.basis = skfem.Basis(self.mesh, skfem.ElementTriP2(), intorder=4)
        self.linear = skfem.Basis(self.mesh, skfem.ElementTriP1(), intorder=4)
        self.size, self.vertices = int(self.basis.N), len(nodes)
        self.points = np.asarray(self.basis.doflocs.T)
        self.weights = np.asarray(self.basis.dx).ravel()
        self.value, (self.x, self.y) = _operators(self.basis)
        self.linear_value = _operators(self.linear)[0]
        self.mass = self.pair(self.value, self.value)
        self.stiffness = self.pair(self.x, self.x) + self.pair(self.y, self.y)
        self.parts = {name: self._dofs(name, domain) for name in domain.boundary(nodes)}

    def pair(self, a: Any, b: Any) -> Any:
        """The matrix of integrals of a_i b_j."""
        return (a.T @ sparse.diags(self.weights) @ b).tocsr()

    def integrals(self, f: Array) -> Array:
        """Integrals of f, given at the quadrature points, with every function of the space."""
        return np.asarray(self.value.T @ (self.weights * f))

    def _dofs(self, part: str, domain: Domain) -> Index:
        """Degrees of freedom on a part of the boundary; a middle belongs where both of its ends do."""
        edge = self.mesh.boundary_facets()
        ends = self.mesh.facets[:, edge]
        on = np.zeros(self.mesh.p.shape[1], dtype=bool)
        on[domain.boundary(self.points[: self.vertices])[part]] = True
        facets = edge[on[ends].all(axis=0)]
        return np.unique(np.concatenate([self.mesh.facets[:, facets].ravel(), self.basis.facet_dofs[0, facets]]))


def _curved(mesh: Any, domain: Domain) -> Any:
    """The mesh with the middles of boundary sides moved onto round obstacles."""
    bent = skfem.MeshTri2.from_mesh(mesh)
    places = bent.doflocs.copy()
    basis = skfem.Basis(mesh, skfem.ElementTriP2())
    for disk in (o for o in domain.obstacles if isinstance(o, Disk)):
        rim = np.zeros(mesh.p.shape[1], dtype=bool)
        rim[domain.boundary(mesh.p.T)[disk.name]] = True
        edge = mesh.boundary_facets()
        facets = edge[rim[mesh.facets[:, edge]].all(axis=0)]
        middle = mesh.p[:, mesh.facets[:, facets]].mean(axis=1)
        away = middle - np.array(disk.center)[:, None]
        places[:, basis.facet_dofs[0, facets]] = np.array(disk.center)[:, None] + disk.radius * away / np.hypot(*away)
    return skfem.MeshTri2(places, bent.t)


def _operators(basis: Any) -> tuple[Any, tuple[Any, Any]]:
    """Values and both derivatives of all functions at all quadrature points, as sparse matrices (points, functions)."""
    dofs = basis.element_dofs
    elements, points = np.asarray(basis.dx).shape
    shape = (elements * points, int(basis.N))
    row = np.arange(elements * points).reshape(elements, points)
    parts: list[list[Any]] = [[], [], []]
    for local in range(dofs.shape[0]):
        function = basis.basis[local][0]
        column = np.broadcast_to(dofs[local][:, None], row.shape)
        for found, values in zip(parts, (np.asarray(function), *function.grad), strict=True):
            spread = np.broadcast_to(values, row.shape)
            found.append(sparse.coo_matrix((spread.ravel(), (row.ravel(), column.ravel())), shape=shape))
    value, x, y = (sum(found[1:], found[0]).tocsr() for found in parts)
    return value, (x, y)
