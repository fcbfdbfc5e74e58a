"""Our own files: one run, one HDF5 file with units, readable by anything that reads HDF5.

/                 attributes format, version, name, origin (JSON)
/nodes            (N, D), attributes units and period (0: the axis ends); /times (T,), attribute units
/cells/KIND       (M, K); /boundary/PART (n,): numbers of nodes
/fields/NAME      (T, N, C), attributes units and long_name
/signals/NAME     (T,) known beforehand; /history/NAME (T,) found out; attribute units
/static, /results groups whose attributes are [value] with NAME.units beside
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from farfield.apps.physics.case import Array, Case, Field, Index, Quantity
from farfield.apps.training import UserError
from farfield.apps.training.atomic import atomic_file

FORMAT, VERSION = "farfield-case", 1
DTYPES = {"fp32": np.float32, "fp64": np.float64}


def write(case: Case, path: Path, precision: str = "fp64") -> None:
    """Write a case in one step; fields frame by frame, compressed.

    Args:
        precision: fp32 or fp64, of the fields; positions and times are always fp64.
    """
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(format=FORMAT, version=VERSION, name=case.name, origin=json.dumps(dict(case.origin)))
        _dataset(file, "nodes", case.nodes, case.units.get("x"))
        file["nodes"].attrs["period"] = [p or 0.0 for p in case.period]
        _dataset(file, "times", case.times, case.units.get("t"))
        for group, arrays in (("cells", case.cells), ("boundary", case.boundary)):
            file.create_group(group)
            for name, index in arrays.items():
                file[group].create_dataset(name, data=index, compression="gzip", shuffle=True)
        for group, series in (("signals", case.signals), ("history", case.history)):
            file.create_group(group)
            for name, (values, units) in series.items():
                _dataset(file[group], name, values, units)
        for group, quantities in (("static", case.static), ("results", case.results)):
            attributes = file.create_group(group).attrs
            for name, quantity in quantities.items():
                attributes[name] = quantity.value
                attributes[f"{name}.units"] = quantity.units or ""
        file.create_group("fields")
        for name, field in case.fields.items():
            shape = (len(case.times), len(case.nodes), field.components)
            values = file["fields"].create_dataset(
                name,
                shape,
                DTYPES[precision],
                chunks=(1, *shape[1:]),
                compression="gzip",
                compression_opts=4,
                shuffle=True,
            )
            values.attrs.update(units=field.units or "", long_name=field.long_name)
            for start, frames in case.chunks(name):
                values[start : start + len(frames)] = frames


def read(path: Path) -> Case:
    """A case whose fields are read from the file when asked for.

    Raises: UserError: it is no file of ours, or is damaged.
    """
    try:
        with h5py.File(path) as file:
            if _text(file.attrs.get("format")) != FORMAT:
                raise UserError(
                    f"{path}: an HDF5 file of another kind (its attribute format is not {FORMAT}); accepted are our"
                    " own,"
                    " VTK series, XDMF, Gmsh and CF NetCDF; an HDF5 file of another program often has an .xdmf beside"
                    " it"
                )
            if int(file.attrs["version"]) > VERSION:
                raise UserError(
                    f"{path}: written by a newer farfield (format {file.attrs['version']}); update farfield"
                )
            return _case(path, file)
    except (OSError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as HDF5 ({error}); write or copy it again") from error


def _case(path: Path, file: Any) -> Case:
    fields = {
        name: Field(name, _units(values), values.shape[2], _text(values.attrs.get("long_name")))
        for name, values in file["fields"].items()
    }
    # Bound here: the reader must not hold the open file.
    nodes = file["nodes"][:]

    def reader(name: str, frames: Index) -> Array:
        with h5py.File(path) as again:
            if not len(frames):
                return np.empty((0, len(nodes), fields[name].components))
            first = int(frames.min())
            block = again["fields"][name][first : int(frames.max()) + 1]
            return np.asarray(block[frames - first], dtype=np.float64)

    return Case(
        name=str(path),
        nodes=nodes,
        cells={kind: index[:].astype(np.int64) for kind, index in file["cells"].items()},
        times=file["times"][:],
        fields=fields,
        reader=reader,
        units={"x": _units(file["nodes"]), "t": _units(file["times"])},
        period=tuple(float(p) or None for p in file["nodes"].attrs["period"]),
        static=_quantities(file["static"].attrs),
        signals={name: (values[:], _units(values)) for name, values in file["signals"].items()},
        results=_quantities(file["results"].attrs),
        history={name: (values[:], _units(values)) for name, values in file["history"].items()},
        boundary={part: index[:].astype(np.int64) for part, index in file["boundary"].items()},
        origin=json.loads(_text(file.attrs["origin"])),
    )


def _dataset(group: Any, name: str, values: Array, units: str | None) -> None:
    group.create_dataset(name, data=values)
    group[name].attrs["units"] = units or ""


def _units(values: Any) -> str | None:
    return _text(values.attrs.get("units")) or None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _quantities(attributes: Any) -> dict[str, Quantity]:
    return {
        name: Quantity(float(value), _text(attributes.get(f"{name}.units")) or None)
        for name, value in attributes.items()
        if not name.endswith(".units")
    }
