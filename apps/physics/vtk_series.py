"""ParaView's files: a PVD that lists frames, or frames by themselves, as VTU or PVTU; read with vtk, written with it.

VTK has no place for units: a file `case.json` beside the PVD holds them, {"units": {"u": "m s-1", "x": "m"}, "static":
{"nu": [0.001, "m2 s-1"]}}; so does the setting units=.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from farfield.apps.physics.case import Array, Case, Field, Index, Quantity, rising
from farfield.apps.physics.mesh import SPLIT, Cells, cells_to_points, simplified
from farfield.apps.training import UserError, atomic_write
from farfield.apps.training.atomic import atomic_folder

# VTK's number of each kind of cell that is read.
KINDS = {
    1: "vertex",
    3: "line",
    5: "triangle",
    9: "quad",
    10: "tetra",
    12: "hexahedron",
    13: "wedge",
    14: "pyramid",
    21: "line3",
    22: "triangle6",
    28: "quad9",
}
TIMES = ("TimeValue", "TIME", "time")
DUPLICATE_CELL = 1
SIDECAR = "case.json"


def read_pvd(path: Path) -> Case:
    """A series listed in a PVD file; several parts of one time are joined.

    Raises: UserError: the file is no PVD, names files that are not there, or a time twice in one part.
    """
    try:
        root = ElementTree.parse(path).getroot()
        sets = [(float(e.attrib.get("timestep", "nan")), e.attrib["file"]) for e in root.iter("DataSet")]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: no PVD file ({error}); ParaView's own is XML with <DataSet timestep= file=>"
        ) from error
    if not sets:
        raise UserError(f"{path}: lists no frame; write it again")
    if len(sets) == 1 and np.isnan(sets[0][0]):
        sets = [(0.0, sets[0][1])]
    by_time: dict[float, list[Path]] = {}
    parts: dict[tuple[float, str], str] = {}
    for element, (time, name) in zip(root.iter("DataSet"), sets, strict=True):
        file = path.parent / name
        if not file.is_file():
            raise UserError(f"{path}: names {name}, which is not there; copy the folder whole")
        key = (time, element.attrib.get("part", "0"))
        if key in parts:
            rising(np.array([time, time]), str(path))
        parts[key] = name
        by_time.setdefault(time, []).append(file)
    return _series(str(path), list(by_time.values()), np.array(list(by_time)), path.parent / SIDECAR)


def read_frames(files: Sequence[Path]) -> Case:
    """A series of VTU or PVTU files of one folder; each says its time in its field data, as ParaView writes it.

    Raises: UserError: there are several and one does not say it.
    """
    times = []
    for file in files:
        found = [v for name in TIMES if (v := _Frame([file]).numbers.get(name)) is not None]
        if not found and len(files) > 1:
            raise UserError(
                f"{file}: says no time (field data {', '.join(TIMES)}), and {len(files)} frames need theirs: write a"
                " PVD file that lists them, or save them with the time from ParaView"
            )
        times.append(float(found[0]) if found else 0.0)
    name = str(files[0]) if len(files) == 1 else str(files[0].parent)
    return _series(name, [[file] for file in files], np.array(times), files[0].parent / SIDECAR)


class _Frame:
    """One frame: points, cells, data at the points, numbers of the whole."""

    def __init__(self, files: Sequence[Path]) -> None:
        grids = [_grid(file) for file in files]
        points = np.concatenate([_array(g.GetPoints().GetData()) for g in grids]).astype(np.float64)
        # Parts share the nodes along their seams: equal positions are one node.
        joined = len(files) > 1 or files[0].suffix == ".pvtu"
        self.first, self.node = _distinct(points) if joined else (np.arange(len(points)), np.arange(len(points)))
        self.points = points[self.first]
        self.cells: dict[str, Index] = {}
        self._grids = grids
        # Cells of one kind of one part: (part, kind, numbers of the cells).
        self._blocks: list[tuple[int, str, Index]] = []
        offset = 0
        for part, grid in enumerate(grids):
            self._add_cells(files[0], part, grid, offset)
            offset += grid.GetNumberOfPoints()
        field = grids[0].GetFieldData()
        self.numbers = {}
        for i in range(field.GetNumberOfArrays()):
            array = field.GetArray(i)
            if array is not None and array.GetNumberOfValues() == 1:
                self.numbers[array.GetName()] = float(_array(array).ravel()[0])

    def _add_cells(self, file: Path, part: int, grid: Any, offset: int) -> None:
        if not grid.GetNumberOfCells():
            return
        number = _array(grid.GetCellTypes()).astype(np.int64)
        cells = grid.GetCells()
        # A file may hold one width for all cells instead of offsets.
        cells.ConvertTo64BitStorage()
        start = _array(cells.GetOffsetsArray()).astype(np.int64)
        corner = _array(cells.GetConnectivityArray()).astype(np.int64) + offset
        ghost = grid.GetCellData().GetArray("vtkGhostType")
        kept = np.ones(len(number), bool) if ghost is None else (_array(ghost) & DUPLICATE_CELL) == 0
        for code in np.unique(number):
            if int(code) not in KINDS:
                raise UserError(
                    f"{file}: has cells of VTK's kind {code}; accepted: {', '.join(KINDS.values())}; in ParaView, the"
                    " filter Tetrahedralize makes triangles and tetrahedra of all"
                )
            chosen = np.flatnonzero((number == code) & kept)
            if not len(chosen):
                continue
            kind = KINDS[int(code)]
            width = int(start[chosen[0] + 1] - start[chosen[0]])
            index = self.node[corner[start[chosen][:, None] + np.arange(width)]]
            self.cells[kind] = np.concatenate([self.cells[kind], index]) if kind in self.cells else index
            self._blocks.append((part, kind, chosen))

    def names(self) -> dict[str, tuple[bool, int]]:
        """Fields: whether they belong to the points, and their components."""
        found = {}
        for at_points in (False, True):
            data = self._grids[0].GetPointData() if at_points else self._grids[0].GetCellData()
            for i in range(data.GetNumberOfArrays()):
                array = data.GetArray(i)
                if array is not None and array.GetName() != "vtkGhostType":
                    found[array.GetName()] = (at_points, array.GetNumberOfComponents())
        return found

    def field(self, name: str, at_points: bool) -> Array:
        """Values (N, C) at the points; those of cells are averaged by size."""
        if at_points:
            parts = [_array(g.GetPointData().GetArray(name)) for g in self._grids]
            return np.concatenate([p.reshape(len(p), -1) for p in parts])[self.first].astype(np.float64)
        if any(kind in SPLIT for _, kind, _ in self._blocks):
            raise UserError(
                f"the field {name!r} belongs to cells with nodes on their edges; in ParaView, Cell Data to Point Data"
                " moves it to the points"
            )
        values: dict[str, list[Array]] = {}
        for part, kind, chosen in self._blocks:
            data = _array(self._grids[part].GetCellData().GetArray(name)).astype(np.float64)
            if kind != "vertex":
                values.setdefault(kind, []).append(data.reshape(len(data), -1)[chosen])
        together = {kind: np.concatenate(v) for kind, v in values.items()}
        return cells_to_points(self.points, {kind: self.cells[kind] for kind in together}, together)


def _series(name: str, files: list[list[Path]], times: Array, sidecar: Path) -> Case:
    order, notes = rising(times, name)
    files = [files[i] for i in order]
    first = _Frame(files[0])
    about = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else {}
    units = about.get("units", {})
    cells = simplified(first.cells)
    nodes, flat = flattened(first.points)
    used = np.zeros(len(nodes), bool)
    for index in cells.values():
        used[index] = True
    found = first.names()
    fields = {n: Field(n, units.get(n), c) for n, (_, c) in found.items()}
    # The last component of a vector in a plane says nothing.
    fields = {n: replace(f, components=nodes.shape[1]) if flat and f.components == 3 else f for n, f in fields.items()}

    def reader(field: str, frames: Index) -> Array:
        loaded = []
        for i in frames:
            frame = first if i == 0 else _Frame(files[i])
            if len(frame.points) != len(first.points) or not np.array_equal(frame.points, first.points):
                raise UserError(
                    f"{files[i][0]}: its mesh is not that of the first frame; meshes that move or are refined in time"
                    " are not read: resample them onto one mesh (in ParaView: Resample With Dataset)"
                )
            if field not in frame.names():
                raise UserError(f"{files[i][0]}: the field {field!r} of the first frame is missing; write it again")
            loaded.append(frame.field(field, found[field][0])[:, : fields[field].components])
        return np.stack(loaded) if loaded else np.empty((0, len(nodes), fields[field].components))

    static = {n: Quantity(v, units.get(n)) for n, v in first.numbers.items() if n not in TIMES}
    static |= {n: Quantity(float(v), u) for n, (v, u) in about.get("static", {}).items()}
    boundary = {part: np.asarray(index, np.int64) for part, index in about.get("boundary", {}).items()}
    return Case(
        name=name,
        nodes=nodes,
        cells=cells,
        times=times[order],
        fields=fields,
        reader=reader,
        units={"x": units.get("x"), "t": units.get("t")},
        period=tuple(about.get("period", ())),
        static=static,
        results={n: Quantity(float(v), u) for n, (v, u) in about.get("results", {}).items()},
        signals={n: (np.asarray(values, float), u) for n, (values, u) in about.get("signals", {}).items()},
        history={n: (np.asarray(values, float), u) for n, (values, u) in about.get("history", {}).items()},
        boundary=boundary,
        origin=about.get("origin", {}),
        notes=notes,
    )


def flattened(points: Array) -> tuple[Array, bool]:
    """Points without last coordinates that are all the same, (N, 2) for a plane; True where there were such."""
    dims = points.shape[1]
    while dims > 1 and len(points) and np.ptp(points[:, dims - 1]) == 0:
        dims -= 1
    return points[:, :dims], dims < points.shape[1]


def _grid(file: Path) -> Any:
    from vtkmodules.vtkCommonCore import vtkObject
    from vtkmodules.vtkIOXML import vtkXMLPUnstructuredGridReader, vtkXMLUnstructuredGridReader

    # What vtk says of a broken file is said here in one sentence.
    vtkObject.GlobalWarningDisplayOff()
    reader = vtkXMLPUnstructuredGridReader() if file.suffix == ".pvtu" else vtkXMLUnstructuredGridReader()
    reader.SetFileName(str(file))
    reader.Update()
    grid = reader.GetOutput()
    if reader.GetErrorCode() or not grid.GetNumberOfPoints():
        raise UserError(f"{file}: cannot be read as VTU or PVTU, or holds no points; write or copy it again")
    return grid


def _array(data: Any) -> Any:
    from vtkmodules.util import numpy_support

    to_numpy: Any = numpy_support.vtk_to_numpy
    return to_numpy(data)


def _distinct(points: Array) -> tuple[Index, Index]:
    _, first, node = np.unique(points, axis=0, return_index=True, return_inverse=True)
    # In the order of their first appearance, so that a single part keeps its numbers.
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[node.ravel()].astype(np.int64)


def natural(path: Path) -> list[Any]:
    """A key that sorts frame-2 before frame-10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def write_series(case: Case, folder: Path, precision: str = "fp64") -> None:
    """Write a folder with case.pvd, a VTU a frame and case.json, which appears in one step."""
    with atomic_folder(folder) as temporary:
        lines = []
        for i, time in enumerate(case.times):
            name = f"frame-{i:05d}.vtu"
            data = {n: case.read(n, i, i + 1)[0] for n in case.fields}
            write_vtu(temporary / name, case.nodes, case.cells, data, float(time), precision)
            lines.append(f'    <DataSet timestep="{float(time)!r}" part="0" file="{name}"/>')
        body = "\n".join(lines)
        atomic_write(
            temporary / "case.pvd",
            f'<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1">\n  <Collection>\n{body}\n'
            "  </Collection>\n</VTKFile>\n",
        )
        units = dict(case.units) | {n: f.units for n, f in case.fields.items()}
        about = {
            "units": units,
            "static": {n: [q.value, q.units] for n, q in case.static.items()},
            "results": {n: [q.value, q.units] for n, q in case.results.items()},
            "signals": {n: [values.tolist(), u] for n, (values, u) in case.signals.items()},
            "history": {n: [values.tolist(), u] for n, (values, u) in case.history.items()},
            "boundary": {part: index.tolist() for part, index in case.boundary.items()},
            "period": list(case.period),
            "origin": dict(case.origin),
        }
        atomic_write(temporary / SIDECAR, json.dumps(about) + "\n")


def write_vtu(
    path: Path, nodes: Array, cells: Cells, data: dict[str, Array], time: float | None = None, precision: str = "fp64"
) -> None:
    """Write one VTU file: data (N, C) at the points; vectors of two components get a third, 0, as ParaView expects."""
    from vtkmodules.util import numpy_support
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkUnstructuredGrid
    from vtkmodules.vtkIOXML import vtkXMLUnstructuredGridWriter

    numpy_to_vtk: Any = numpy_support.numpy_to_vtk
    numpy_to_index: Any = numpy_support.numpy_to_vtkIdTypeArray

    def spatial(x: Array) -> Array:
        return np.pad(x, ((0, 0), (0, 3 - x.shape[1])))

    number = {name: k for k, name in KINDS.items()}
    grid, points = vtkUnstructuredGrid(), vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(spatial(nodes)), deep=True))
    grid.SetPoints(points)
    kinds = np.concatenate([np.full(len(i), number[k], np.uint8) for k, i in cells.items()] or [np.empty(0, np.uint8)])
    widths = np.concatenate([np.full(len(i), i.shape[1]) for i in cells.values()] or [np.empty(0, np.int64)])
    together = vtkCellArray()
    offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    corners = np.concatenate([i.ravel() for i in cells.values()] or [np.empty(0, np.int64)]).astype(np.int64)
    together.SetData(numpy_to_index(offsets, deep=True), numpy_to_index(corners, deep=True))
    grid.SetCells(numpy_to_vtk(kinds, deep=True), together)
    dtype = np.float32 if precision == "fp32" else np.float64
    for name, values in data.items():
        values = spatial(values) if values.shape[1] == 2 else values
        array = numpy_to_vtk(np.ascontiguousarray(values, dtype=dtype), deep=True)
        array.SetName(name)
        grid.GetPointData().AddArray(array)
    if time is not None:
        stamp = numpy_to_vtk(np.array([time]), deep=True)
        stamp.SetName("TimeValue")
        grid.GetFieldData().AddArray(stamp)
    writer = vtkXMLUnstructuredGridWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(grid)
    if not writer.Write():
        raise OSError(f"{path} cannot be written")
