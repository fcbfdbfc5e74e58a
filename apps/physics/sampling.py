"""Data at other places: fixed linear maps, cubic on grids, barycentric on meshes.

Shapes: N nodes of the data, n places, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from farfield.apps.training import UserError

Array = np.ndarray


def sampling_matrix(nodes: Array, places: Array, period: tuple[float | None, ...] = ()) -> Tensor:
    """(n, N) float64: values of data at places inside their domain.

    Args:
        nodes: (N, D), of a grid (then cubic splines along each axis) or not (then linear on Delaunay's simplices).
        places: (n, D). period: Length of each axis that wraps around.
    Raises: UserError: a place lies outside.
    """
    d = nodes.shape[1]
    around = period or (None,) * d
    axes = [np.unique(nodes[:, k]) for k in range(d)]
    if int(np.prod([len(a) for a in axes])) == len(nodes):
        full = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d)
        if np.allclose(full, nodes, rtol=0, atol=1e-9):
            rows = np.ones((len(places), 1))
            for k in range(d):
                line = line_matrix(axes[k], places[:, k], around[k])
                rows = (rows[:, :, None] * line[:, None, :]).reshape(len(places), -1)
            return torch.from_numpy(rows)
    return torch.from_numpy(_barycentric(nodes, places))


def line_matrix(known: Array, x: Array, period: float | None = None) -> Array:
    """(n, N): the cubic spline through values at known places on a line or circle, at others."""
    from scipy.interpolate import make_interp_spline

    count = len(known)
    if period is not None:
        if count < 3:
            raise UserError(f"an axis that wraps around has {count} nodes; at least 3 are needed")
        wrapped = np.append(known, known[0] + period)
        values = np.concatenate([np.eye(count), np.eye(count)[:1]])
        curve = make_interp_spline(wrapped, values, k=3, bc_type="periodic")
        return np.asarray(curve(known[0] + np.mod(x - known[0], period)))
    if count == 1:
        return np.ones((len(x), 1))
    curve = make_interp_spline(known, np.eye(count), k=min(3, count - 1))
    return np.asarray(curve(np.clip(x, known[0], known[-1])))


def _barycentric(nodes: Array, places: Array) -> Array:
    from scipy.spatial import Delaunay

    mesh = Delaunay(nodes)
    at = mesh.find_simplex(places, tol=1e-9)
    if (at < 0).any():
        place = ", ".join(f"{c:g}" for c in places[int(np.flatnonzero(at < 0)[0])])
        raise UserError(f"{(at < 0).sum()} places lie outside of the data's nodes, the first at ({place})")
    d = nodes.shape[1]
    turn = mesh.transform[at]
    inner = np.einsum("nij,nj->ni", turn[:, :d], places - turn[:, d])
    weights = np.concatenate([inner, 1 - inner.sum(axis=1, keepdims=True)], axis=1)
    found = np.zeros((len(places), len(nodes)))
    np.put_along_axis(found, mesh.simplices[at], weights, axis=1)
    return found
