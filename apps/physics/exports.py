"""What a field says, in files that others read: CSV, CF NetCDF, VTU and PVD."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farfield.apps.physics import case as cases
from farfield.apps.physics.case import Case, Index
from farfield.apps.physics.field import Field
from farfield.apps.physics.points import AXES, Answers
from farfield.apps.physics.rectangle import Rectangle
from farfield.apps.physics.vtk_series import write_series, write_vtu
from farfield.apps.training import atomic_write
from farfield.apps.training.atomic import atomic_file

Array = NDArray[np.float64]


def vectors(field: Field) -> dict[str, list[int]]:
    """Components by the name of their field: u_x and u_y are one vector u."""
    found: dict[str, list[int]] = {}
    axes = AXES[: field.space.dimensions]
    for k, name in enumerate(field.names):
        stem, _, axis = name.rpartition("_")
        whole = len(axes) > 1 and bool(stem) and all(f"{stem}_{a}" in field.names for a in axes)
        found.setdefault(stem if whole and axis in axes else name, []).append(k)
    return found


def as_case(field: Field, times: Array, resolution: int) -> Case:
    """The field on its mesh, or on a grid of so many points to a cell, at some times; frames are made when read."""
    nodes, cells = field.space.mesh(resolution)
    groups = vectors(field)
    fields = {n: cases.Field(n, field.units.get(field.names[k[0]]), len(k)) for n, k in groups.items()}
    at = torch.from_numpy(np.asarray(times, np.float64))
    errors = {f"{name}_error": k for name, k in groups.items()} if field.estimates else {}
    for name in errors:
        fields[name] = cases.Field(name, fields[name.removesuffix("_error")].units, 1, "estimated error")

    def reader(name: str, frames: Index) -> Array:
        if name not in errors:
            return np.asarray(field.frames(nodes, at[torch.from_numpy(frames)])[..., groups[name]].double().numpy())
        each = [field.error(nodes, at[k])[:, errors[name]].norm(dim=1, keepdim=True) for k in frames.tolist()]
        return torch.stack(each).numpy() if each else np.empty((0, len(nodes), 1))

    return Case(
        name="field",
        nodes=nodes.numpy(),
        cells={kind: index.numpy() for kind, index in cells.items()},
        times=at.numpy(),
        fields=fields,
        reader=reader,
        units={axis: field.units.get(axis) for axis in ("x", "t")},
        static=field.static,
    )


def write_pvd(field: Field, folder: Path, times: Array, resolution: int) -> Path:
    """A folder with case.pvd and a VTU a time, for ParaView; it appears in one step."""
    write_series(as_case(field, times, resolution), folder)
    return folder / "case.pvd"


def write_frame(field: Field, path: Path, time: float, resolution: int) -> None:
    """One VTU of the whole field at one time."""
    case = as_case(field, np.array([time]), resolution)
    data = {name: case.read(name)[0] for name in case.fields}
    with atomic_file(path) as temporary:
        write_vtu(temporary, case.nodes, case.cells, data, time)


def write_netcdf(field: Field, path: Path, times: Array, resolution: int) -> None:
    """CF NetCDF of the whole field: a grid over a rectangle, nodes and triangles (UGRID) over a mesh."""
    import xarray

    case = as_case(field, times, resolution)
    unit = {axis: case.units.get(axis) for axis in ("x", "t")}
    coords: dict[str, Any] = {"time": ("time", case.times, _attributes(unit["t"], axis="T", standard_name="time"))}
    axes = AXES[: case.nodes.shape[1]]
    dims: tuple[str, ...]
    extra: dict[str, Any] = {}
    if isinstance(field.space, Rectangle):
        lines = [np.unique(case.nodes[:, k]) for k in range(len(axes))]
        shape, dims = tuple(len(line) for line in lines), tuple(axes)
        for axis, line in zip(axes, lines, strict=True):
            coords[axis] = (axis, line, _attributes(unit["x"], axis=axis.upper()))
    else:
        shape, dims = (len(case.nodes),), ("node",)
        for k, axis in enumerate(axes):
            coords[axis] = ("node", case.nodes[:, k], _attributes(unit["x"], axis=axis.upper()))
        topology = {
            "cf_role": "mesh_topology",
            "topology_dimension": 2,
            "node_coordinates": "x y",
            "face_node_connectivity": "triangles",
        }
        extra["mesh"] = ((), np.int32(0), topology)
        start = {"cf_role": "face_node_connectivity", "start_index": 0}
        extra["triangles"] = (("face", "corner"), case.cells["triangle"].astype(np.int32), start)
    variables: dict[str, Any] = {}
    for name, about in case.fields.items():
        values = case.read(name)
        names = [f"{name}_{a}" for a in axes] if about.components > 1 else [name]
        for k, single in enumerate(names):
            attributes = _attributes(about.units, long_name=about.long_name)
            if extra:
                attributes |= {"mesh": "mesh", "location": "node"}
            variables[single] = (("time", *dims), values[..., k].reshape(len(times), *shape), attributes)
    about_all = {"Conventions": "CF-1.8 UGRID-1.0" if extra else "CF-1.8", "source": "farfield"}
    about_all |= {name: f"{q.value!r} {q.units or ''}".strip() for name, q in field.static.items()}
    data = xarray.Dataset(variables | extra, coords, about_all)
    with atomic_file(path) as temporary:
        data.to_netcdf(temporary, engine="netcdf4")


def write_answers(answers: Answers, path: Path, units: Mapping[str, str | None]) -> None:
    """Answers at points, by the file's ending: .csv, .nc or .vtu; it appears in one step."""
    {".csv": _csv, ".nc": _points_netcdf, ".vtu": _points_vtu}[path.suffix](answers, path, units)


def _csv(answers: Answers, path: Path, units: Mapping[str, str | None]) -> None:
    points = answers.points
    assert points.times is not None
    axes = AXES[: points.places.shape[1]]
    named: dict[str, Any] = {_titled(a, units.get("x")): points.places[:, k] for k, a in enumerate(axes)}
    named |= {_titled("t", units.get("t")): points.times, **points.others}
    named |= {_titled(name, u): values for name, (values, u) in answers.columns.items()}
    if answers.trusted is not None:
        named["trusted"] = answers.trusted.astype(int)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(named)
    # Floats as Python writes them: the shortest text that is read back as the same number.
    table.writerows(zip(*(c.tolist() if isinstance(c, np.ndarray) else c for c in named.values()), strict=True))
    atomic_write(path, text.getvalue())


def _points_netcdf(answers: Answers, path: Path, units: Mapping[str, str | None]) -> None:
    import xarray

    points = answers.points
    assert points.times is not None
    axes = AXES[: points.places.shape[1]]
    coords: dict[str, Any] = {
        a: ("point", points.places[:, k], _attributes(units.get("x"), axis=a.upper())) for k, a in enumerate(axes)
    }
    coords["time"] = ("point", points.times, _attributes(units.get("t"), axis="T", standard_name="time"))
    names = {name: _identifier(name) for name in answers.columns}
    variables: dict[str, Any] = {
        names[n]: ("point", v, _attributes(u, long_name=n)) for n, (v, u) in answers.columns.items()
    }
    if answers.trusted is not None:
        variables["trusted"] = ("point", answers.trusted.astype(np.int8), {"flag_meanings": "no yes"})
    data = xarray.Dataset(variables, coords, {"Conventions": "CF-1.8", "featureType": "point", "source": "farfield"})
    with atomic_file(path) as temporary:
        data.to_netcdf(temporary, engine="netcdf4")


def _points_vtu(answers: Answers, path: Path, units: Mapping[str, str | None]) -> None:
    points = answers.points
    assert points.times is not None
    data = {_identifier(name): values[:, None] for name, (values, _) in answers.columns.items()}
    data["t"] = points.times[:, None]
    if answers.trusted is not None:
        data["trusted"] = answers.trusted.astype(np.float64)[:, None]
    each = np.arange(len(points.places), dtype=np.int64)[:, None]
    with atomic_file(path) as temporary:
        write_vtu(temporary, points.places, {"vertex": each}, data)


def _titled(name: str, unit: str | None) -> str:
    return f"{name} ({unit})" if unit else name


def _identifier(name: str) -> str:
    return name.replace(":", "_d").replace(" ", "_")


def _attributes(unit: str | None, **others: str) -> dict[str, str]:
    found = {key: value for key, value in others.items() if value}
    return found | ({"units": unit} if unit else {})
