"""CF NetCDF: grids of longitude and latitude (regular or curvilinear) or of x and y, read lazily with xarray.

Positions of a geographic grid are (longitude, latitude) in degrees; longitudes rise along a row, past 180 or 360 where
they must. A grid that goes round the Earth has period 360; no cell crosses the seam. Nodes that are missing at the
first, the middle and the last time are land: they are dropped, and the nodes beside them are the boundary part `coast`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from farfield.apps.physics.case import Array, Case, Field, Index, Quantity, rising, without_nodes
from farfield.apps.physics.mesh import grid_cells
from farfield.apps.training import UserError

SECONDS = {
    **dict.fromkeys(("second", "seconds", "sec", "secs", "s"), 1.0),
    **dict.fromkeys(("minute", "minutes", "min", "mins"), 60.0),
    **dict.fromkeys(("hour", "hours", "hr", "hrs", "h"), 3600.0),
    **dict.fromkeys(("day", "days", "d"), 86400.0),
}
# How a coordinate says what it is: its units, its standard_name, its axis, and last its own name.
SIGNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...]]] = {
    "x": (
        ("degrees_east", "degree_east", "degrees_e", "degree_e"),
        ("longitude", "grid_longitude", "projection_x_coordinate"),
        "X",
        ("lon", "longitude", "nav_lon", "x"),
    ),
    "y": (
        ("degrees_north", "degree_north", "degrees_n", "degree_n"),
        ("latitude", "grid_latitude", "projection_y_coordinate"),
        "Y",
        ("lat", "latitude", "nav_lat", "y"),
    ),
}


def read(path: Path, wanted: list[str] | None, select: Mapping[str, float]) -> Case:
    """One file as one case.

    Args:
        wanted: Variables; None is every one that lies on the grid of the first that lies on a grid.
        select: Value of each further dimension (a level, a member) at which to cut: the nearest one is taken.
    Raises: UserError: no grid is found, a dimension needs a choice, the times have no calendar that is known.
    """
    import xarray

    try:
        with warnings.catch_warnings():
            # What a file says of areas that lie in other files is no matter here.
            warnings.filterwarnings("ignore", message=".*not in variables.*")
            data = xarray.open_dataset(path, decode_times=False, decode_coords="all")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as NetCDF ({error}); write or copy it again") from error
    names = wanted or _gridded(data)
    if not names:
        raise UserError(f"{path}: no variable lies on a grid of longitude and latitude, or x and y, that says so (CF)")
    for name in names:
        if name not in data.data_vars:
            raise UserError(f"{path}: there is no variable {name!r}; it has {', '.join(map(str, data.data_vars))}")
    x, y = (_coordinate(path, data, data[names[0]], axis) for axis in "xy")
    time = _time_name(data, data[names[0]])
    grid_dims = _grid_dims(x, y)
    cut, chosen = _cut(path, data, names, grid_dims, time, select)
    nodes, units, period, east = _nodes(x, y, grid_dims)
    times, origin = _times(path, data, time)
    order, notes = rising(times, str(path))
    shape = (*(data.sizes[d] for d in grid_dims[:-1]), len(east) or data.sizes[grid_dims[-1]])
    fields = {n: Field(n, _text(data[n], "units"), 1, _text(data[n], "long_name") or "") for n in names}

    def reader(name: str, frames: Index) -> Array:
        variable = cut[name]
        if time is not None and time in variable.dims:
            at = order[frames]
            # One contiguous read where the order allows it: scattered reads of a compressed file are slow.
            low, high = (int(at.min()), int(at.max()) + 1) if len(at) else (0, 0)
            block = variable.isel({time: slice(low, high)}).transpose(time, *grid_dims).values[at - low]
        else:
            still = variable.transpose(*grid_dims).values
            block = np.broadcast_to(still, (len(frames), *still.shape))
        block = np.asarray(block, dtype=np.float64)
        return (block[:, :, east] if len(east) else block).reshape(len(frames), -1, 1)

    if min(shape) < 2 and len(shape) == 2:
        raise UserError(
            f"{path}: {names[0]} lies on a grid of {shape[0]} x {shape[1]}; two rows and columns are needed"
        )
    cells = grid_cells(shape)["quad"] if len(shape) == 2 else np.empty((0, 4), np.int64)
    corners = nodes[cells]
    whole = np.ptp(corners[..., 0], axis=1) < (180 if units["x"] == "degree" else np.inf)
    # Curvilinear grids fold at the pole and may hold the same place twice: such cells have no size.
    cells = cells[whole & np.isfinite(corners).all(axis=(1, 2))]
    case = Case(
        name=str(path),
        nodes=nodes,
        cells={"quad": cells} if len(cells) else {},
        times=times[order],
        fields=fields,
        reader=reader,
        units=units,
        period=period,
        static={n: Quantity(v, u) for n, (v, u) in chosen.items()},
        origin=origin,
        notes=notes,
    )
    return _without_land(case, cells)


def _gridded(data: Any) -> list[str]:
    """The variables of numbers that share the grid of the first one that has a grid."""
    found: list[str] = []
    dims: set[Any] = set()
    for name, variable in data.data_vars.items():
        axes = [_find(data, variable, axis) for axis in "xy"]
        if variable.dtype.kind not in "fiu" or any(a is None for a in axes) or "cf_role" in variable.attrs:
            continue
        here = set(_grid_dims(*axes))
        dims = dims or here
        if here == dims:
            found.append(str(name))
    return found


def _find(data: Any, variable: Any, axis: str) -> Any:
    units, standard, letter, names = SIGNS[axis]
    nominees = [c for c in data.variables.values() if 0 < c.ndim <= 2 and set(c.dims) <= set(variable.dims)]
    named = {id(c): str(name).lower() for name, c in data.variables.items()}
    tests = (
        lambda c: str(c.attrs.get("units", "")).lower() in units,
        lambda c: c.attrs.get("standard_name") in standard,
        lambda c: str(c.attrs.get("axis", "")).upper() == letter and c.ndim == 1,
        lambda c: named[id(c)] in names,
    )
    for test in tests:
        for c in nominees:
            if test(c):
                return c
    return None


def _coordinate(path: Path, data: Any, variable: Any, axis: str) -> Any:
    found = _find(data, variable, axis)
    if found is None:
        raise UserError(
            f"{path}: {variable.name} has no {'longitude' if axis == 'x' else 'latitude'} or {axis} that says so (CF:"
            " units"
            f" {SIGNS[axis][0][0]}, or axis = {axis.upper()}); its dimensions are {', '.join(map(str, variable.dims))}"
        )
    return found


def _grid_dims(x: Any, y: Any) -> tuple[Any, ...]:
    """The dimensions of the grid; one alone where positions are a list, as of stations or unstructured meshes."""
    return tuple(y.dims) if y.ndim == 2 or y.dims == x.dims else (y.dims[0], x.dims[0])


def _nodes(
    x: Any, y: Any, dims: tuple[Any, ...]
) -> tuple[Array, dict[str, str | None], tuple[float | None, ...], Index]:
    """Positions (N, 2), their units, the period of each axis, and the order of the columns from west to east."""
    geographic = str(x.attrs.get("units", "")).lower() in SIGNS["x"][0] or "longitude" in str(
        x.attrs.get("standard_name")
    )
    units: dict[str, str | None] = {"x": "degree" if geographic else (x.attrs.get("units") or None), "t": "s"}
    if x.ndim == 2 or len(dims) == 1:
        nodes = np.stack([np.asarray(x.transpose(*dims), float), np.asarray(y.transpose(*dims), float)], axis=-1)
        around = geographic and float(np.nanmax(nodes[..., 0]) - np.nanmin(nodes[..., 0])) > 350
        return nodes.reshape(-1, 2), units, (360.0 if around else None, None), np.empty(0, np.int64)
    east, north = np.asarray(x, float), np.asarray(y, float)
    order = np.arange(len(east))
    period = None
    if geographic and len(east) > 1:
        east = np.unwrap(east, period=360)
        order = np.argsort(east, kind="stable")
        east = east[order]
        step = np.median(np.diff(east))
        # Some grids hold their first meridian again at the end.
        order, east = (a[east < east[0] + 360 - 0.5 * step] for a in (order, east))
        period = 360.0 if abs(east[-1] + step - east[0] - 360) < 0.5 * step else None
    pairs = np.meshgrid(north, east, indexing="ij")
    return np.stack([pairs[1].ravel(), pairs[0].ravel()], axis=1), units, (period, None), order


def _time_name(data: Any, variable: Any) -> Any:
    """The dimension of the frames: the one along which a variable counts from a date, or whose axis is T."""
    for dim in variable.dims:
        if _clock(data, dim) is not None or getattr(data.variables.get(dim), "attrs", {}).get("axis") == "T":
            return dim
    return None


def _clock(data: Any, dim: Any) -> Any:
    dated = [c for c in data.variables.values() if c.dims == (dim,) and " since " in str(c.attrs.get("units", ""))]
    own = data.variables.get(dim)
    return own if any(c is own for c in dated) else (dated or [None])[0]


def _times(path: Path, data: Any, time: Any) -> tuple[Array, dict[str, str]]:
    """Seconds since the first frame, in the calendar of the file."""
    import cftime

    if time is None:
        return np.zeros(1), {}
    c = _clock(data, time)
    c = data.variables[time] if c is None else c
    units, calendar = str(c.attrs.get("units", "")), str(c.attrs.get("calendar", "standard")).lower()
    word = units.partition(" since ")[0].strip().lower()
    values = np.asarray(c.values, dtype=np.float64)
    if " since " not in units:
        raise UserError(
            f"{path}: the times have the units {units!r}; 'days since 2000-01-01' or alike is accepted (CF); add them,"
            " with ncatted for example"
        )
    if word in ("month", "months", "year", "years"):
        # Such steps have a length only in a calendar of equal months.
        scale = {"m": 30.0, "y": 360.0}[word[0]] * 86400 if calendar == "360_day" else None
    else:
        scale = SECONDS.get(word)
    if scale is None:
        raise UserError(
            f"{path}: times in {units!r} ({calendar} calendar) have no fixed length; write them in days since ..."
        )
    start = values.min() if np.isfinite(values).any() else 0.0
    try:
        date = units.partition(" since ")[2].strip()
        # Climatologies count from a year 0 that the calendars of history lack.
        zero = {"has_year_zero": True} if date.lstrip("-").split("-")[0].strip("0") == "" else {}
        with warnings.catch_warnings():
            # cftime says that year 0 is not in the CF conventions: the files are as they are.
            warnings.simplefilter("ignore")
            first = str(cftime.num2date(start * scale / 86400, f"days since {date}", calendar, **zero))
    except ValueError as error:
        raise UserError(f"{path}: times {units!r} in the calendar {calendar!r} are not known ({error})") from error
    return (values - start) * scale, {"calendar": calendar, "first_time": first}


def _cut(
    path: Path, data: Any, names: list[str], grid_dims: tuple[Any, ...], time: Any, select: Mapping[str, float]
) -> tuple[dict[str, Any], dict[str, tuple[float, str | None]]]:
    """Every variable at the chosen value of its further dimensions; those values."""
    cut: dict[str, Any] = {}
    chosen: dict[str, tuple[float, str | None]] = {}
    for name in names:
        variable = data[name]
        for dim in [d for d in variable.dims if d not in (*grid_dims, time)]:
            c = data.variables.get(dim)
            values = (
                np.asarray(c.values, float) if c is not None and c.dtype.kind in "fiu" else np.arange(data.sizes[dim])
            )
            if dim not in select and len(values) > 1:
                some = ", ".join(f"{v:g}" for v in values[:6])
                raise UserError(
                    f"{path}: {name} has the dimension {dim} too, of {len(values)} values ({some}"
                    f"{', ...' if len(values) > 6 else ''}); choose one: select=[{dim}:{values[0]:g}]"
                )
            at = int(np.abs(values - select.get(str(dim), values[0])).argmin())
            chosen[str(dim)] = (
                float(values[at]),
                str(c.attrs["units"]) if c is not None and "units" in c.attrs else "1",
            )
            variable = variable.isel({dim: at})
        if not set(grid_dims) <= set(variable.dims):
            raise UserError(f"{path}: {name} does not lie on the grid of {names[0]}; describe them one by one")
        cut[name] = variable
    return cut, chosen


def _text(variable: Any, key: str) -> str | None:
    return str(variable.attrs[key]) if variable.attrs.get(key) else None


def _without_land(case: Case, cells: Index) -> Case:
    probes = sorted({0, len(case.times) // 2, len(case.times) - 1})
    missing = np.ones(len(case.nodes), bool)
    for name in case.fields:
        for i in probes:
            missing &= np.isnan(case.read(name, i, i + 1)[0, :, 0])
    missing |= ~np.isfinite(case.nodes).all(axis=1)
    if not missing.any():
        return case
    if missing.all():
        raise UserError(f"{case.name}: {', '.join(case.fields)} hold no value at the first, middle and last time")
    beside = np.zeros(len(case.nodes), bool)
    beside[cells[missing[cells].any(axis=1)]] = True
    case = replace(case, boundary={"coast": np.flatnonzero(beside & ~missing)})
    share = missing.mean()
    note = f"{case.name}: {missing.sum():,} of {len(missing):,} nodes ({share:.0%}) have no value: land, left out"
    return without_nodes(case, ~missing, note)
