"""Runs from files, whatever wrote them: `data=runs/*/case.pvd fields=[u,p] static=[nu] boundary=tags.csv`."""

from __future__ import annotations

import csv
import glob
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from farfield.apps.physics.case import Array, Case, Index, Quantity, graph_edges, problems, without_nodes
from farfield.apps.physics.mesh import oriented, pieces, rim
from farfield.apps.training import UserError

ACCEPTED = "HDF5 (.h5 .hdf5), PVD, VTU, PVTU, XDMF (.xdmf .xmf), Gmsh (.msh), CF NetCDF (.nc .nc4 .cdf)"
PARTS, MISSING = ("error", "largest", "all"), ("error", "drop")


@dataclass(frozen=True)
class Wanted:
    """What to take from the files.

    Args:
        fields: Names; None takes all.
        static: Parameters of a run: from the file, case.json beside it, or its path (runs/nu=0.01/case.pvd); None
            takes all that the file has.
        units: Of fields, parameters, "x" (positions) and "t" (times), where the file does not say them or is wrong.
        boundary: CSV file with the parts of the boundary.
        select: Value of each further dimension of a NetCDF variable.
        parts: What to do with a mesh in several pieces: error, largest (keep that), all.
        missing: What to do with nodes whose value is missing at some time: error, drop.
    """

    fields: Sequence[str] | None = None
    static: Sequence[str] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    boundary: str | None = None
    select: Mapping[str, float] = field(default_factory=dict)
    parts: str = "error"
    missing: str = "error"

    @classmethod
    def of(
        cls,
        fields: list[str] | None,
        static: list[str] | None,
        units: list[str],
        boundary: str | None,
        select: list[str],
        parts: str,
        missing: str,
    ) -> Wanted:
        """From settings as a recipe holds them.

        Raises: UserError: one of them is wrong.
        """
        for name, value, accepted in (("parts", parts, PARTS), ("missing", missing, MISSING)):
            if value not in accepted:
                raise UserError(f"{name}={value}: {', '.join(accepted)} are accepted")
        for name, names in (("fields", fields), ("static", static)):
            if names is not None and not isinstance(names, list):
                raise UserError(f"{name}={names}: a list of names is accepted, for example {name}=[{names}]")
        chosen = {}
        for key, value in _pairs("select", select, "depth:5").items():
            try:
                chosen[key] = float(value)
            except ValueError:
                raise UserError(f"select=[{key}:{value}]: a number is accepted after the colon") from None
        return cls(fields, static, _pairs("units", units, "u:m s-1"), boundary, chosen, parts, missing)


def _pairs(name: str, words: list[str], example: str) -> dict[str, str]:
    found = {}
    for word in words:
        key, colon, value = str(word).partition(":")
        if not colon or not key.strip() or not value.strip():
            raise UserError(f'{name}=[{word}]: name:value is accepted, for example "{name}=[{example}]"')
        found[key.strip()] = value.strip()
    return found


def open_cases(data: str | Sequence[str], wanted: Wanted) -> list[Case]:
    """Every run that the pattern or patterns match; values are read when they are asked for.

    Raises: UserError: nothing matches, a file cannot be read, or a run cannot be learnt from; the message says why.
    """
    found = list(described(data, wanted))
    for case in found:
        if wrong := problems(case):
            raise UserError(f"{case.name}: {wrong[0]}")
    return [_whole(case, wanted.missing) for case in found]


def described(data: str | Sequence[str], wanted: Wanted) -> list[Case]:
    """The same without the last look: whatever is wrong with a run stays to be told."""
    try:
        return [_prepared(read(), wanted) for read in _sources(data, wanted)]
    except ModuleNotFoundError as error:
        raise UserError(f"reading {data} needs the package {error.name!r}: pip install 'farfield[physics]'") from error


def _sources(data: str | Sequence[str], wanted: Wanted) -> list[Callable[[], Case]]:
    from farfield.apps.physics import vtk_series

    patterns = [data] if isinstance(data, str) else list(data)
    files: list[Path] = []
    for pattern in patterns:
        matched = [Path(p) for p in glob.glob(str(Path(pattern).expanduser()), recursive=True)]
        if not matched:
            raise UserError(f"data={pattern}: no file has that name; a path or a pattern is accepted: runs/*/case.pvd")
        files += matched
    files = sorted(set(files), key=vtk_series.natural)
    readers: list[Callable[[], Case]] = []
    frames: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in (".vtu", ".pvtu"):
            frames.setdefault(file.parent, []).append(file)
        else:
            readers.append(_reader(file, wanted))
    readers += [lambda group=group: vtk_series.read_frames(group) for group in frames.values()]  # type: ignore[misc]
    return readers


def _reader(file: Path, wanted: Wanted) -> Callable[[], Case]:
    suffix = file.suffix.lower()
    if suffix in (".h5", ".hdf5"):
        from farfield.apps.physics.hdf5 import read

        return lambda: read(file)
    if suffix == ".pvd":
        from farfield.apps.physics.vtk_series import read_pvd

        return lambda: read_pvd(file)
    if suffix in (".xdmf", ".xmf"):
        from farfield.apps.physics.mesh_files import read_xdmf

        return lambda: read_xdmf(file)
    if suffix == ".msh":
        from farfield.apps.physics.mesh_files import read_mesh

        return lambda: read_mesh(file)
    if suffix in (".nc", ".nc4", ".cdf"):
        from farfield.apps.physics.netcdf import read as read_netcdf

        names = list(wanted.fields) if wanted.fields is not None else None
        return lambda: read_netcdf(file, names, wanted.select)
    raise UserError(f"data={file}: files that end in {suffix or 'nothing'} are not read; accepted: {ACCEPTED}")


def _prepared(case: Case, wanted: Wanted) -> Case:
    case = _chosen(case, wanted)
    if case.cells:
        used = np.zeros(len(case.nodes), bool)
        for index in case.cells.values():
            used[index] = True
        lone = int((~used).sum())
        case = without_nodes(case, used, f"{case.name}: {lone:,} nodes that belong to no cell were left out")
    if np.isfinite(case.nodes).all():
        case = replace(case, cells=oriented(case.nodes, case.cells)[0])
    if wanted.parts != "error" and case.cells:
        piece = pieces(len(case.nodes), graph_edges(case))
        if wanted.parts == "largest":
            lost = f"{(piece > 0).sum():,} nodes outside the largest of {piece.max() + 1:,} pieces"
            note = f"{case.name}: {lost} were left out"
            case = without_nodes(case, piece == 0, note)
        else:
            case = replace(case, origin={**case.origin, "pieces": str(piece.max() + 1)})
    if wanted.boundary is not None:
        case = replace(case, boundary={**case.boundary, **_tags(case, wanted.boundary)})
    return case


def _chosen(case: Case, wanted: Wanted) -> Case:
    """Only the wanted fields and parameters, with the units given."""
    names = list(case.fields) if wanted.fields is None else list(wanted.fields)
    for name in names:
        if name not in case.fields:
            raise UserError(f"{case.name}: there is no field {name!r}; it has {', '.join(case.fields) or 'none'}")
    known = {**_from_path(case.name), **case.static}
    parameters = list(known) if wanted.static is None else list(wanted.static)
    for name in parameters:
        if name not in known:
            raise UserError(
                f"{case.name}: the parameter {name!r} is not known; the file has {', '.join(known) or 'none'}; write"
                " it into"
                f' case.json beside it ({{"static": {{"{name}": [0.001, "m2 s-1"]}}}}) or into the path ({name}=0.001/)'
            )
    units = wanted.units
    axes = {axis: units.get(axis, case.units.get(axis)) for axis in ("x", "t")}
    return replace(
        case,
        fields={n: replace(case.fields[n], units=units.get(n, case.fields[n].units)) for n in names},
        static={n: Quantity(known[n].value, units.get(n, known[n].units)) for n in parameters},
        units=axes,
    )


def _from_path(name: str) -> dict[str, Quantity]:
    """Parameters that the path names: runs/nu=0.01/case.pvd."""
    found = re.findall(r"(?:^|[/_,])([A-Za-z]\w*)=([-+]?[\d.]+(?:[eE][-+]?\d+)?)(?=[/_,]|\.\w+$|$)", name)
    return {key: Quantity(float(value), None) for key, value in found}


def _whole(case: Case, missing: str) -> Case:
    """The case with a reader that lets no missing value through."""
    if missing == "drop":
        keep = np.ones(len(case.nodes), bool)
        for name in case.fields:
            for _, values in case.chunks(name):
                keep &= np.isfinite(values).all(axis=(0, 2))
        note = f"{case.name}: {(~keep).sum():,} of {len(keep):,} nodes miss a value at some time and were left out"
        return without_nodes(case, keep, note)

    def reader(name: str, frames: Index) -> Array:
        values = case.reader(name, frames)
        bad = ~np.isfinite(values).all(axis=2)
        if bad.any():
            frame, node = (int(i[0]) for i in np.nonzero(bad))
            place = ", ".join(f"{c:g}" for c in case.nodes[node])
            raise UserError(
                f"{case.name}: {name} is no number at {bad.any(axis=0).sum():,} of {bad.shape[1]:,} nodes, first at"
                f" time {case.times[frames[frame]]:g}, node {node} ({place}); missing=drop leaves such nodes out"
            )
        return values

    return replace(case, reader=reader)


def _tags(case: Case, file: str) -> dict[str, Index]:
    """Parts of the boundary from a CSV file of `tag,node` or of `tag,x_min,x_max,y_min,y_max,...`, an empty limit open.

    A relative path is looked for beside the run first. Boxes choose among the nodes of the mesh's rim.
    """
    beside = Path(case.name).parent / file
    path = beside if beside.is_file() else Path(file)
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            table = csv.DictReader(lines, skipinitialspace=True)
            columns, rows = table.fieldnames or [], list(table)
    except OSError as error:
        raise UserError(
            f"boundary={file}: cannot be read ({error.strerror}); it was looked for in {beside.parent} too"
        ) from None
    dims = case.nodes.shape[1]
    limits = [f"{axis}_{end}" for axis in "xyz"[:dims] for end in ("min", "max")]
    if "tag" not in columns or not ("node" in columns or any(c in columns for c in limits)):
        raise UserError(
            f"boundary={path}: its columns are {', '.join(columns)}; accepted: tag,node or tag,{','.join(limits)}"
        )
    on_rim = np.zeros(len(case.nodes), bool)
    on_rim[rim(case.cells)] = True
    found: dict[str, list[Index]] = {}
    for line, row in enumerate(rows, start=2):
        try:
            if "node" in columns:
                nodes = np.array([int(row["node"])], np.int64)
                if not 0 <= nodes[0] < len(case.nodes):
                    raise UserError(
                        f"boundary={path}, line {line}: node {nodes[0]}; the mesh has 0 to {len(case.nodes) - 1}"
                    )
            else:
                inside = on_rim.copy()
                for limit in limits:
                    if (text := (row.get(limit) or "").strip()) != "":
                        position = case.nodes[:, "xyz".index(limit[0])]
                        inside &= position >= float(text) if limit.endswith("min") else position <= float(text)
                nodes = np.flatnonzero(inside)
        except (ValueError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"boundary={path}, line {line}: {dict(row)} holds something that is no number") from None
        found.setdefault(str(row["tag"]), []).append(nodes)
    tags = {tag: np.unique(np.concatenate(parts)) for tag, parts in found.items()}
    for tag, nodes in tags.items():
        if not len(nodes):
            raise UserError(f"boundary={path}: no node of {case.name} is in the part {tag!r}; widen its limits")
    return tags
