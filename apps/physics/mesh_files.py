"""XDMF series and Gmsh meshes, read with meshio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import meshio
import numpy as np

from farfield.apps.physics.case import Array, Case, Field, Index, Quantity, rising
from farfield.apps.physics.mesh import DIMENSION, Cells, cells_to_points, simplified
from farfield.apps.physics.vtk_series import flattened
from farfield.apps.training import UserError

# What meshio raises on files that are not what their names say; it ends the process at some.
BROKEN = (meshio.ReadError, OSError, LookupError, ValueError, AttributeError, SyntaxError, SystemExit)


def read_xdmf(path: Path) -> Case:
    """A time series with one mesh, or a single frame, of XDMF 3; the data may lie in an HDF5 file beside it.

    Raises: UserError: it cannot be read.
    """
    try:
        with meshio.xdmf.TimeSeriesReader(str(path)) as series:
            points, blocks = series.read_points_cells()
            frames = [series.read_data(k) for k in range(series.num_steps)]
            times = np.array([frame[0] for frame in frames], dtype=np.float64)
            first = (frames[0][1], frames[0][2]) if frames else ({}, {})
    except BROKEN as error:
        return _single(path, str(error))
    order, notes = rising(times, str(path))
    mesh = _Mesh(path, points, [(b.type, b.data) for b in blocks])

    def reader(name: str, wanted: Index) -> Array:
        loaded = []
        with meshio.xdmf.TimeSeriesReader(str(path)) as again:
            again.read_points_cells()
            for i in wanted:
                _, at_points, in_cells = again.read_data(int(order[i]))
                loaded.append(mesh.field(name, at_points, in_cells))
        return np.stack(loaded) if loaded else np.empty((0, len(points), mesh.fields(*first)[name].components))

    return mesh.case(times[order], mesh.fields(*first), reader, notes)


def read_mesh(path: Path) -> Case:
    """One frame: a Gmsh mesh with its physical groups as parts of the boundary, or any single mesh that meshio reads.

    Raises: UserError: it cannot be read.
    """
    return _single(path, "")


def _single(path: Path, reason: str) -> Case:
    try:
        found = meshio.read(str(path))
    except BROKEN as error:
        raise UserError(f"{path}: cannot be read ({reason or error}); write it again, as VTU for example") from error
    mesh = _Mesh(path, found.points, [(b.type, b.data) for b in found.cells])
    fields = mesh.fields(found.point_data, {})
    values = {name: mesh.field(name, found.point_data, {})[None] for name in fields}
    case = mesh.case(np.zeros(1), fields, lambda name, frames: values[name][frames], ())
    return _tagged(case, found)


def _tagged(case: Case, found: Any) -> Case:
    """Adds the physical groups of lower dimension than the mesh."""
    from dataclasses import replace

    names = {(int(tag), int(dim)): name for name, (tag, dim) in found.field_data.items()}
    top = max((DIMENSION[kind] for kind in case.cells), default=0)
    boundary: dict[str, Index] = {}
    for block, tags in zip(found.cells, found.cell_data.get("gmsh:physical", ()), strict=False):
        if block.dim >= top:
            continue
        for tag in np.unique(tags):
            name = names.get((int(tag), block.dim), str(tag))
            nodes = np.unique(block.data[np.asarray(tags) == tag])
            boundary[name] = np.union1d(boundary.get(name, np.empty(0, np.int64)), nodes).astype(np.int64)
    return replace(case, boundary=boundary)


class _Mesh:
    """Points and cells as meshio gives them, and the way from its data to fields at the points."""

    def __init__(self, path: Path, points: Array, blocks: list[tuple[str, Index]]) -> None:
        self.path = path
        self.nodes, self.flat = flattened(np.asarray(points, np.float64))
        self.kinds = [kind for kind, _ in blocks]
        joined: dict[str, Index] = {}
        for kind, index in blocks:
            joined[kind] = np.concatenate([joined[kind], index]) if kind in joined else np.asarray(index, np.int64)
        every = simplified(joined)
        top = max((DIMENSION[kind] for kind in every), default=0)
        self.cells: Cells = {kind: index for kind, index in every.items() if DIMENSION[kind] == top}

    def fields(self, at_points: Any, in_cells: Any) -> dict[str, Field]:
        """Fields at the points, then those of the cells."""
        widths = {name: np.asarray(v).reshape(len(v), -1).shape[1] for name, v in at_points.items()}
        widths |= {name: np.asarray(v[0]).reshape(len(v[0]), -1).shape[1] for name, v in in_cells.items()}
        flat = self.nodes.shape[1]
        return {n: Field(n, None, flat if self.flat and w == 3 else w) for n, w in widths.items()}

    def field(self, name: str, at_points: Any, in_cells: Any) -> Array:
        """Values (N, C) at the points."""
        if name in at_points:
            values = np.asarray(at_points[name], np.float64).reshape(len(self.nodes), -1)
        elif name in in_cells:
            parts: dict[str, list[Array]] = {}
            for kind, part in zip(self.kinds, in_cells[name], strict=True):
                if kind in self.cells:
                    parts.setdefault(kind, []).append(np.asarray(part, np.float64).reshape(len(part), -1))
            together = {kind: np.concatenate(v) for kind, v in parts.items()}
            if set(together) != set(self.cells):
                raise UserError(
                    f"{self.path}: the field {name!r} belongs to cells with nodes on their edges; write it at the"
                    " points"
                )
            values = cells_to_points(self.nodes, self.cells, together)
        else:
            raise UserError(f"{self.path}: the field {name!r} of the first frame is missing later; write it again")
        return values[:, : self.nodes.shape[1]] if self.flat and values.shape[1] == 3 else values

    def case(self, times: Array, fields: dict[str, Field], reader: Any, notes: tuple[str, ...]) -> Case:
        """The case that this mesh carries."""
        static: dict[str, Quantity] = {}
        units = {"x": None, "t": None}
        return Case(str(self.path), self.nodes, self.cells, times, fields, reader, units, static=static, notes=notes)
