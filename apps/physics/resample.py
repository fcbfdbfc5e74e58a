"""Runs on meshes and at times of their own, carried to those that they share: fixed linear maps, one for each mesh.

On a mesh a value is carried by the C1 cubics of `irregular`, so that nothing passes a hole or a wall; between grids
by cubic splines along each axis. Shapes: N nodes of the one mesh, M of the other; F frames, C components.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from farfield.apps.physics.case import Array, Case, Index
from farfield.apps.physics.irregular import Irregular
from farfield.apps.physics.local_fit import inward
from farfield.apps.physics.mesh import Cells
from farfield.apps.physics.rims import border, triangles_of
from farfield.apps.physics.sampling import line_matrix
from farfield.apps.training import UserError

# Positions of one mesh are the same as those of another when they differ by less, in the mesh's units.
SAME_PLACE = 1e-9
# A node is looked for this far on the way from its place to the middle of its own triangles: on its side of a slit.
INWARD = (0.0, 1e-3, 0.03, 0.3)
# Largest relative difference of two runs' times that are called the same.
SAME_TIME = 1e-6

Carry = Callable[[Array], Array]


class Mesh(Protocol):
    """What is shared: a case, or runs."""

    @property
    def nodes(self) -> Array: ...
    @property
    def cells(self) -> Cells: ...
    @property
    def boundary(self) -> Mapping[str, Index]: ...
    @property
    def period(self) -> tuple[float | None, ...]: ...


@dataclass(frozen=True)
class Own:
    """What a run said where it was computed, when that is not where all runs are compared.

    Args:
        values: (T, M, C) float32, at its own nodes and the shared times. held: (M, C), known beforehand.
        back: From the shared nodes to its own.
    """

    values: torch.Tensor
    held: torch.Tensor
    back: Carry

    def fields(self, shared: torch.Tensor) -> torch.Tensor:
        """Predictions (T, N, C) at the shared nodes, at its own (T, M, C); held values are its own."""
        carried = torch.from_numpy(self.back(shared.double().numpy())).float()
        return torch.where(self.held, self.values, carried)


def same_nodes(one: Mesh, other: Mesh) -> bool:
    """Whether two meshes have the same nodes in the same order."""
    return one.nodes.shape == other.nodes.shape and np.allclose(one.nodes, other.nodes, rtol=0, atol=SAME_PLACE)


class Carries:
    """Maps between a shared mesh and others; each is made once."""

    def __init__(self, shared: Mesh, name: str) -> None:
        self.shared, self.name = shared, name
        self._spaces: list[tuple[Mesh, Irregular]] = []

    def here(self, case: Case) -> Carry:
        """From a case's nodes to the shared ones: (F, M, C) to (F, N, C).

        Raises: UserError: another domain, or nodes of which it is not known what lies between them.
        """
        return self._between(case, self.shared, case.name, f"the shared mesh ({self.name})")

    def back(self, case: Case) -> Carry:
        """From the shared nodes to a case's: (F, N, C) to (F, M, C)."""
        return self._between(self.shared, case, f"the shared mesh ({self.name})", case.name)

    def _between(self, source: Mesh, target: Mesh, one: str, other: str) -> Carry:
        if source.nodes.shape[1] != target.nodes.shape[1] or source.period != target.period:
            raise UserError(
                f"{other}: {target.nodes.shape[1]} dimensions, axes that wrap around: {target.period}; {one} has"
                f" {source.nodes.shape[1]}, {source.period}: runs of one domain are accepted"
            )
        lines, wanted = grid_lines(source.nodes), grid_lines(target.nodes)
        if lines is not None and wanted is not None:
            return _along_axes(lines, wanted, source.period, one, other)
        if source.nodes.shape[1] != 2 or any(p is not None for p in source.period):
            raise UserError(
                f"{other}: its nodes are not those of {one}; between meshes that are no grids, values are carried in a"
                " plane without axes that wrap around: interpolate the runs to one mesh (in ParaView: Resample With"
                " Dataset)"
            )
        matrix = self._matrix(source, target, one, other)
        return lambda values: _product(matrix, values)

    def _space(self, mesh: Mesh, name: str) -> Irregular:
        for known, space in self._spaces:
            if known is mesh or (same_nodes(known, mesh) and known.cells.keys() == mesh.cells.keys()):
                return space
        if not mesh.cells:
            raise UserError(f"{name}: its nodes have no cells, so what lies between them is not known; give a mesh")
        space = Irregular(mesh.nodes, mesh.cells, mesh.boundary, held=[t for t, i in mesh.boundary.items() if len(i)])
        # The shared mesh is met again with every run, another one seldom after the next.
        self._spaces = [*self._spaces[:1], *self._spaces[1:][-1:], (mesh, space)]
        return space

    def _matrix(self, source: Mesh, target: Mesh, one: str, other: str) -> Any:
        space = self._space(source, one)
        away = (
            inward(target.nodes, triangles_of(target.nodes, target.cells))
            if target.cells
            else np.zeros_like(target.nodes)
        )
        places, found = _on_border(source, target, away)
        triangle = torch.from_numpy(found)
        for share in INWARD:
            lost = triangle.numpy() < 0
            if not lost.any():
                return space.weights_in(triangle, torch.from_numpy(places))
            tried = torch.from_numpy(target.nodes[lost] + share * away[lost])
            triangle[torch.from_numpy(lost)] = space.triangle_at(tried).long()
        place = ", ".join(f"{c:g}" for c in target.nodes[lost][0])
        raise UserError(
            f"{lost.sum():,} of {len(lost):,} nodes of {other}, the first at ({place}), lie outside of {one}: meshes"
            " may differ, the domain may not; train one network for each domain"
        )


def _on_border(source: Mesh, target: Mesh, away: Array) -> tuple[Array, Index]:
    """Places of the target's nodes and, for those on its border, the source's triangle there; -1 for the others.

    A node on the border is taken to the nearest point of the source's: of the sides of its own parts, where it has any,
    that look to the same side as it does.
    """
    places, found = target.nodes.copy(), np.full(len(target.nodes), -1)
    if not target.cells:
        return places, found
    triangles = triangles_of(source.nodes, source.cells)
    sides, owner = _border_sides(triangles)
    a, b = source.nodes[sides[:, 0]], source.nodes[sides[:, 1]]
    normal = source.nodes[triangles[owner]].mean(axis=1) - (a + b) / 2
    length = np.linalg.norm(b - a, axis=1)
    part_of_side = np.asarray(_parts_at(source, sides).all(axis=1))
    rim = np.unique(border(triangles_of(target.nodes, target.cells)))
    tags = _parts_at(target, rim, list(source.boundary))
    for node, own in zip(rim, tags, strict=True):
        p = target.nodes[node]
        share = np.clip(((p - a) * (b - a)).sum(axis=1) / length**2, 0, 1)
        near = a + share[:, None] * (b - a)
        gap = np.linalg.norm(near - p, axis=1)
        fits = normal @ away[node] > 0
        if own.any():
            fits &= (part_of_side & own).any(axis=1)
        gap[~fits] = np.inf
        best = int(gap.argmin())
        if gap[best] <= length[best] / 2:
            places[node], found[node] = near[best], owner[best]
    return places, found


def _border_sides(triangles: Index) -> tuple[Index, Index]:
    """Sides of one triangle alone (B, 2), and that triangle (B,)."""
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    _, first, count = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True, return_counts=True)
    alone = first[count == 1]
    return pairs[alone], alone % len(triangles)


def _parts_at(mesh: Mesh, nodes: Index, names: Sequence[str] | None = None) -> np.ndarray:
    """Which parts of the boundary nodes are on, (.., P)."""
    found = np.zeros((len(mesh.nodes), len(mesh.boundary if names is None else names)), bool)
    for k, name in enumerate(mesh.boundary if names is None else names):
        if name in mesh.boundary:
            found[mesh.boundary[name], k] = True
    return found[nodes]


def _product(matrix: Any, values: Array) -> Array:
    flat = values.transpose(1, 0, 2).reshape(values.shape[1], -1)
    return np.asarray((matrix @ flat).reshape(-1, values.shape[0], values.shape[2]).transpose(1, 0, 2))


def grid_lines(nodes: Array) -> list[Array] | None:
    """Positions along each axis of a full grid, the last axis fastest; None of anything else."""
    axes = [np.unique(nodes[:, k]) for k in range(nodes.shape[1])]
    if int(np.prod([len(a) for a in axes])) != len(nodes):
        return None
    full = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(nodes.shape)
    return axes if np.allclose(full, nodes, rtol=0, atol=SAME_PLACE) else None


def _along_axes(
    source: list[Array], target: list[Array], period: tuple[float | None, ...], one: str, other: str
) -> Carry:
    maps = []
    for k, (a, b) in enumerate(zip(source, target, strict=True)):
        slack = 1e-6 * (a[-1] - a[0])
        if period[k] is None and (b[0] < a[0] - slack or b[-1] > a[-1] + slack):
            raise UserError(
                f"{other}: axis {k} goes from {b[0]:g} to {b[-1]:g}, that of {one} from {a[0]:g} to {a[-1]:g}; runs of"
                " one domain are accepted"
            )
        maps.append(line_matrix(a, b, period[k]))

    def carry(values: Array) -> Array:
        out = values.reshape(len(values), *(len(a) for a in source), values.shape[2])
        for k, matrix in enumerate(maps):
            out = np.moveaxis(np.tensordot(matrix, out, ([1], [k + 1])), 0, k + 1)
        return out.reshape(len(values), -1, values.shape[2])

    return carry


def shared_times(cases: Sequence[Case]) -> Array:
    """Times since each run's first frame at which all of them are known: those of the run with the longest steps.

    Raises: UserError: there is one frame alone, or the shortest run ends before the second of these times.
    """
    each = [case.times - case.times[0] for case in cases]
    for case in cases:
        if len(case.times) < 2:
            raise UserError(f"{case.name}: one frame; at least two are needed to learn how a field changes")
    if all(same_times(t, each[0]) for t in each):
        return np.asarray(each[0])
    slow = max(range(len(each)), key=lambda i: float(np.diff(each[i]).mean()))
    soon = min(range(len(each)), key=lambda i: float(each[i][-1]))
    end = float(each[soon][-1])
    found = each[slow][each[slow] <= end * (1 + SAME_TIME)]
    if len(found) < 2:
        raise UserError(
            f"{cases[soon].name} ends at {end:g} after its first frame, before the second frame of {cases[slow].name}"
            f" ({each[slow][1]:g}); runs that overlap for two frames at least are accepted"
        )
    return np.asarray(found)


def same_times(one: Array, other: Array) -> bool:
    """Whether two runs have the same frames."""
    return len(one) == len(other) and bool(np.abs(one - other).max() <= SAME_TIME * abs(other[-1]))


def in_time(case: Case, times: Array) -> Array | None:
    """From a case's frames to those at the shared times, (T, F): the cubic through them; None where they are the same.

    Raises: UserError: the case ends too soon.
    """
    own = case.times - case.times[0]
    if same_times(own, times):
        return None
    if len(own) < 2 or own[-1] < times[-1] * (1 - SAME_TIME):
        raise UserError(
            f"{case.name}: its {len(own)} frames end at {own[-1]:g} after the first, the network's at {times[-1]:g};"
            " give runs that last as long"
        )
    return line_matrix(own, times)
