"""`farfield physics query`: what a trained surrogate says at any place and time, as a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.apps.physics.field import Field
from farfield.apps.training import UserError

POINT_FILES, WHOLE_FILES = (".csv", ".nc", ".vtu", ".png", ".pdf"), (".pvd", ".nc", ".vtu", ".png", ".pdf")
PICTURES = (".png", ".pdf")
FIELD = ".safetensors"


def query(
    *,
    run_folder: Path,
    checkpoint: str,
    data: str | list[str] | None,
    static: list[str],
    units: list[str],
    boundary: str | None,
    select: list[str],
    points: str | None,
    times: list[float] | float | None,
    derivatives: list[str],
    outside: str,
    resolution: int,
    out: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> Path:
    """Roll a surrogate out from a run's first frame and ask the field that it gives.

    Args:
        run_folder: Where the answers go unless `out` says otherwise.
        checkpoint: Folder of a training, or a field (.safetensors) that an earlier query wrote.
        data: The run whose first frame, boundary values and inputs the surrogate starts from; none for a field.
        static: Parameters instead of the run's own: ["nu:0.02"].
        units, boundary, select: As of `Wanted`, for reading data.
        points: CSV file of x, y, z and t; None asks for the whole domain.
        times: Where points have no column t, or of the whole domain; None is all of the field's own times.
        derivatives: ["u:x", "u:t"] beside the values, at points.
        outside: error, or nan for points that the field does not reach.
        resolution: Points to a cell's side where a rectangle is shown whole.
        out: The file: .csv, .nc, .vtu, .png, .pdf of points; .pvd (a folder of frames for ParaView), .nc, .vtu, .png,
            .pdf of the whole; .safetensors is the field itself.
        device: Where the surrogate runs. precision: fp32. seed: Nothing is drawn. resume: Nothing is resumed.
    Returns: The file.
    Raises: UserError: a setting is wrong, a point lies outside, the checkpoint or the data cannot be read.
    """
    from farfield.apps.physics.points import read_points

    # YAML takes nan for a number.
    outside = "nan" if isinstance(outside, float) and math.isnan(outside) else outside
    target = run_folder / ("answers.csv" if points is not None else "field.pvd") if out is None else Path(str(out))
    accepted = (*(WHOLE_FILES if points is None else POINT_FILES), FIELD)
    if target.suffix not in accepted or target.is_dir():
        what = "the whole domain" if points is None else "points"
        raise UserError(f"out={target}: a file of {what} ends in {', '.join(accepted)}")
    if not isinstance(resolution, int) or isinstance(resolution, bool) or not 1 <= resolution <= 64:
        raise UserError(f"resolution={resolution}: a whole number from 1 to 64 is accepted")
    wanted = _times(times)
    field = _field(checkpoint, data, static, units, boundary, select, wanted, device)
    asked = None
    if points is not None:
        asked = read_points(Path(points), field.space.dimensions)
        if asked.times is None and wanted is None and target.suffix not in (*PICTURES, FIELD):
            raise UserError(f"points={points}: has no column t; give the times: times=[{field.time.end:g}]")
    shown = _own_times(field) if wanted is None else wanted
    if asked is None and (bad := shown[(shown < field.time.start) | (shown > field.time.end)]).size:
        raise UserError(f"times: {bad[0]:g} lies outside of [{field.time.start:g}, {field.time.end:g}]")
    told = _write(field, target, asked, shown, derivatives, outside, resolution)
    print(f"{told}: {_said(field, asked)}")
    return told


def _write(
    field: Field, target: Path, asked: Any, times: NDArray[np.float64], derivatives: list[str], outside: str,
    resolution: int,
) -> Path:  # fmt: skip
    from farfield.apps.physics import exports, figures
    from farfield.apps.physics.points import answer

    if target.suffix == FIELD:
        field.save(target)
    elif asked is not None and target.suffix in PICTURES:
        figures.draw_points(field, target, asked)
    elif asked is not None:
        every = asked if asked.times is not None else asked.at(times)
        exports.write_answers(answer(field, every, derivatives, outside), target, field.units)
    elif target.suffix in PICTURES:
        figures.draw_frames(field, target, times, resolution)
    elif target.suffix == ".pvd":
        return exports.write_pvd(field, target.with_suffix(""), times, resolution)
    elif target.suffix == ".vtu":
        exports.write_frame(field, target, float(times[-1]), resolution)
    else:
        exports.write_netcdf(field, target, times, resolution)
    return target


def _field(
    checkpoint: str,
    data: str | list[str] | None,
    static: list[str],
    units: list[str],
    boundary: str | None,
    select: list[str],
    times: NDArray[np.float64] | None,
    device: str,
) -> Field:
    """The field of a checkpoint and a run, or the one in a file."""
    if str(checkpoint).endswith(FIELD):
        if data is not None or static:
            raise UserError(f"checkpoint={checkpoint}: a field is what it is; data and static are for a trained one")
        return Field.load(checkpoint)
    from farfield.apps.physics.cases import Wanted, open_cases
    from farfield.apps.physics.ensemble import Ensemble

    ensemble = Ensemble.load(checkpoint)
    if data is None:
        raise UserError("data: give the run whose first frame and boundary values are to start from (data=run.h5)")
    found = open_cases(data, Wanted.of(None, None, units, boundary, select, "error", "error"))
    if len(found) != 1:
        raise UserError(f"data={data}: {len(found)} runs match; one is accepted, whose first frame is the start")
    return ensemble.predict(found[0], times, _numbers(static), device)


def _numbers(static: list[str]) -> dict[str, float]:
    found = {}
    for word in static:
        name, colon, value = str(word).partition(":")
        try:
            if not colon or not math.isfinite(number := float(value)):
                raise ValueError
        except ValueError:
            raise UserError(f'static=[{word}]: name:number is accepted, for example "static=[nu:0.02]"') from None
        found[name.strip()] = number
    return found


def _times(times: list[float] | float | None) -> NDArray[np.float64] | None:
    if times is None:
        return None
    each = times if isinstance(times, list) else [times]
    if not each or any(isinstance(t, bool) or not isinstance(t, int | float) or not math.isfinite(t) for t in each):
        raise UserError(f"times={times}: a number or a list of numbers is accepted, for example times=[0.1,0.2]")
    return np.array(each, np.float64)


def _own_times(field: Field) -> NDArray[np.float64]:
    nodes = field.time.nodes.numpy()
    return nodes[(nodes >= field.time.start) & (nodes <= field.time.end)]


def _said(field: Field, asked: Any) -> str:
    count = "the whole domain" if asked is None else f"{len(asked.places):,} points"
    about = {name: field.units.get(name) or "1" for name in field.names}
    said = f"{', '.join(f'{n} ({u})' for n, u in about.items())} at {count}, t from {field.time.start:g} to"
    said += f" {field.time.end:g}"
    if field.estimates and field.tolerance is not None:
        said += f"; trusted up to an error of {json.dumps([float(f'{v:.3g}') for v in field.tolerance])}"
    return said
