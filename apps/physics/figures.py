"""Pictures of a field: frames beside each other, and what happens at points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farfield.apps.physics.exports import vectors
from farfield.apps.physics.field import Field
from farfield.apps.physics.points import Points
from farfield.apps.training import UserError
from farfield.apps.training.atomic import atomic_file

Array = NDArray[np.float64]
# Frames in one figure, and lines in one panel, at most.
FRAMES, LINES = 8, 12
SAMPLES = 200


def draw_frames(field: Field, path: Path, times: Array, resolution: int) -> None:
    """Every field at some times, one row a field (a vector's length), one column a time.

    Raises: UserError: in three dimensions, or matplotlib is missing.
    """
    if field.space.dimensions > 2:
        raise UserError(f"out={path}: pictures are of one and two dimensions; write a .pvd for ParaView")
    pyplot = _pyplot(path)
    if len(times) > FRAMES:
        times = times[np.linspace(0, len(times) - 1, FRAMES).round().astype(int)]
    nodes, cells = field.space.mesh(resolution)
    found = field.frames(nodes, torch.from_numpy(np.asarray(times, np.float64))).double().numpy()
    groups = vectors(field)
    size = (2.6 * len(times) + 1, 2.4 * len(groups) + 0.3)
    figure, panels = pyplot.subplots(len(groups), len(times), figsize=size, squeeze=False, layout="constrained")
    for row, (name, index) in zip(panels, groups.items(), strict=True):
        values = found[..., index]
        single = values[..., 0] if len(index) == 1 else np.linalg.norm(values, axis=2)
        low, high = float(single.min()), float(single.max())
        title = f"{'|' + name + '|' if len(index) > 1 else name} ({field.units.get(field.names[index[0]]) or '1'})"
        shown: Any = None
        for panel, values_now, time in zip(row, single, times, strict=True):
            panel.set_title(f"t = {time:.4g} {field.units.get('t') or ''}", fontsize=9)
            if field.space.dimensions == 1:
                order = nodes[:, 0].argsort()
                panel.plot(nodes[order, 0], values_now[order.numpy()])
                panel.set_ylim(low, high + 1e-12 * (low == high))
                panel.set_ylabel(title if panel is row[0] else "")
            else:
                triangles = _triangles(cells)
                shown = panel.tripcolor(*nodes.numpy().T, triangles, values_now, vmin=low, vmax=high, shading="gouraud")
                panel.set_aspect("equal")
        if shown is not None:
            figure.colorbar(shown, ax=list(row), label=title, shrink=0.9)
    _save(figure, path, pyplot)


def draw_points(field: Field, path: Path, points: Points) -> None:
    """Every component over the field's whole time at each of the first few points, with the estimated error as a band.

    Raises: UserError: a point lies outside, or matplotlib is missing.
    """
    from farfield.apps.physics.points import answer

    pyplot = _pyplot(path)
    places = np.unique(points.places, axis=0)[:LINES]
    times = np.linspace(field.time.start, field.time.end, SAMPLES if field.time.end > field.time.start else 1)
    asked = Points(places, None, {}, np.arange(len(places))).at(times)
    found = answer(field, asked, [], "error").columns
    rows = len(field.names)
    figure, panels = pyplot.subplots(rows, 1, figsize=(7, 2.2 * rows + 0.6), squeeze=False, layout="constrained")
    for panel, name in zip(panels[:, 0], field.names, strict=True):
        lines = found[name][0].reshape(len(times), len(places))
        for k, place in enumerate(places):
            (line,) = panel.plot(times, lines[:, k], label=f"({', '.join(f'{c:.4g}' for c in place)})")
            if f"{name} error" in found:
                band = found[f"{name} error"][0].reshape(len(times), len(places))[:, k]
                panel.fill_between(times, lines[:, k] - band, lines[:, k] + band, color=line.get_color(), alpha=0.2)
        panel.set_ylabel(f"{name} ({field.units.get(name) or '1'})")
    panels[-1, 0].set_xlabel(f"t ({field.units.get('t') or '1'})")
    panels[0, 0].legend(fontsize=7, ncols=3)
    _save(figure, path, pyplot)


def _triangles(cells: dict[str, torch.Tensor]) -> NDArray[np.int64]:
    found = [cells["triangle"]] if "triangle" in cells else []
    if "quad" in cells:
        found += [cells["quad"][:, [0, 1, 2]], cells["quad"][:, [0, 2, 3]]]
    return np.asarray(torch.cat(found).numpy(), np.int64)


def _pyplot(path: Path) -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UserError(f"out={path}: pictures need matplotlib: pip install 'farfield[plots]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path, pyplot: Any) -> None:
    try:
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=150)
    finally:
        pyplot.close(figure)
