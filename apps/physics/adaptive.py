"""Where cells, nodes and steps pay: partitions that follow what the training runs do.

The error of a spline of degree r on a cell of width h is about |u^(r+1)| h^(r+1): equal shares of |u^(r+1)|^(1/(r+1))
make equal errors. The (r+1)-st differences of the data along each axis, root mean square over runs, frames and
everything else, stand for the derivative.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from farfield.apps.physics.runs import Runs
from farfield.apps.physics.sampling import line_matrix
from farfield.core_ops.spline_collocation import SplineCollocation, equidistribute, indicator_density

# A density this even moves no knot: the partition stays uniform.
EVEN = 1.5
# Networks learn even steps and cells sooner: an adapted partition is taken where the squared error of uniform splines,
# in units of the fields' variance, is more than this, and at most this share of it is left.
ENOUGH, WORTH = 4e-6, 0.8
# Most values of the data that a monitor looks at.
LOOKED_AT = 2**24
# Nodes of a mesh are at most so many times denser, or rarer, than on average: by the data, by the errors of splines.
CONTRAST, SHARPER = 3.0, 6.0
# What a density is multiplied by is this power of the local squared error, smoothed so often over neighbours.
POWER, SMOOTHED = 0.25, 3
# Least part of the mean squared error that a place is taken to have.
CALM = 0.01


def partitions(train: Runs, cells: list[int], order: int, adapt: bool, spread: Tensor | None = None) -> list[Tensor]:
    """Knots of each axis, uniform or adapted.

    Args:
        train: The data. cells: Of each axis. order: Degree of the spline.
        spread: Of an ensemble over the data (R, T, N, C), for `spread_density` to follow instead of the curvature.
    Returns: One tensor (cells + 1) an axis, float64, from one side of the domain to the other.
    """
    found = []
    shape = tuple(len(np.unique(train.nodes[:, k])) for k in range(train.nodes.shape[1]))
    grid = int(np.prod(shape)) == len(train.nodes)
    for k, count in enumerate(cells):
        low = float(train.nodes[:, k].min())
        high = low + train.period[k] if train.period[k] is not None else float(train.nodes[:, k].max())  # type: ignore[operator]
        knots = torch.linspace(low, high, count + 1, dtype=torch.float64)
        if adapt and grid and count > 1 and shape[k] > order + 2:
            axis = np.unique(train.nodes[:, k])
            if spread is not None:
                density = spread_density(train, spread, shape, k, order)
                found.append(_adapted(knots, axis, density, train.period[k], high))
                continue
            other = _adapted(knots, axis, _axis_monitor(train, shape, k, order), train.period[k], high)
            if pays(*(_axis_error(train, shape, k, order, x) for x in (other, knots))):
                knots = other
        found.append(knots)
    return found


def _adapted(uniform: Tensor, axis: np.ndarray, monitor: Tensor, period: float | None, high: float) -> Tensor:
    """Knots with equal shares of a density on the cells of the data's own grid."""
    edges = torch.from_numpy(np.append(axis, high) if period is not None else axis)
    density = monitor.clamp(min=0)
    smooth = torch.ones(1, 1, 5, dtype=torch.float64) / 5
    padded = torch.nn.functional.pad(
        density[None, None], (2, 2), mode="circular" if period is not None else "replicate"
    )
    density = torch.nn.functional.conv1d(padded, smooth)[0, 0]
    if float(density.max()) <= EVEN * float(density.clamp(min=1e-30).min()):
        return uniform
    return equidistribute(edges, density, len(uniform) - 1)


def _axis_monitor(train: Runs, shape: tuple[int, ...], k: int, order: int) -> Tensor:
    """Density on every cell of the grid along axis k."""
    values = torch.unflatten(some(train), 2, shape).movedim(2 + k, -1)
    if train.period[k] is not None:
        values = torch.cat([values, values[..., : order + 2]], -1)
    x = values / values.std().clamp(min=1e-30)
    differences = torch.diff(x, n=order + 1, dim=-1).double()
    size = differences.pow(2).flatten(0, -2).mean(0).sqrt().pow(1 / (order + 1))
    if train.period[k] is not None:
        # Difference i spans cells i .. i + order: it belongs to the middle one.
        return torch.roll(size[: shape[k]], (order + 1) // 2)
    cells = shape[k] - 1
    lead = (cells - len(size)) // 2
    return torch.cat([size[:1].expand(lead), size, size[-1:].expand(cells - len(size) - lead)])


def spread_density(train: Runs, spread: Tensor, shape: tuple[int, ...], k: int, order: int) -> Tensor:
    """The same from how much the members of an ensemble differ: cells where they do are short.

    A standard deviation is an error e = c h^(r+1) that was seen on cells of one width, and asks for c^(1/(r+1)).

    Args:
        spread: Standard deviations of the members (R, T, N, C) at the nodes of a grid of the given shape.
    """
    size = spread.double() / train.values.double().std(dim=(0, 1, 2)).clamp(min=1e-30)
    lines = torch.unflatten(size.pow(2).mean((0, 1, 3)), 0, shape)
    along = lines.movedim(k, -1).reshape(-1, shape[k]).mean(0).sqrt()
    after = torch.roll(along, -1) if train.period[k] is not None else along[1:]
    each = torch.maximum(along[: len(after)], after)
    # All cells of the partition it was seen on are of one width.
    one = torch.arange(len(each) + 1, dtype=torch.float64)
    return indicator_density(one, each, order)


def pays(adapted: float, uniform: float) -> bool:
    """Whether adapted splines are worth it, by the squared errors of both."""
    return uniform > ENOUGH and adapted <= WORTH * uniform


def _axis_error(train: Runs, shape: tuple[int, ...], k: int, order: int, knots: Tensor) -> float:
    """Mean squared error of splines along axis k through the runs' own values at the points of a partition."""
    periodic = train.period[k] is not None
    line = SplineCollocation(knots, order, ends="periodic" if periodic else "dirichlet")
    axis = np.unique(train.nodes[:, k])
    sampled = torch.from_numpy(line_matrix(axis, line.nodes.numpy(), train.period[k]))
    through = (line.operator(torch.from_numpy(axis)) @ sampled).float()
    values = torch.unflatten(some(train), 2, shape).movedim(2 + k, -1)
    return float((values @ through.mT - values).pow(2).mean())


def some(train: Runs) -> Tensor:
    """Values of some runs, in units of each component's spread."""
    most = max(1, LOOKED_AT // max(1, train.values[0].numel()))
    values = train.values[:most]
    return values / values.std(dim=(0, 1, 2), keepdim=True).clamp(min=1e-30)


def time_frames(train: Runs, steps: int, order: int) -> tuple[int, ...] | None:
    """Frames at which `steps` intervals meet, short where the runs change fast; None where nothing is gained."""
    values = some(train)
    count = len(train.times)
    degree = min(order + 1, 4)
    if count <= degree + 2 or steps < 2:
        return None
    gaps = torch.from_numpy(np.diff(train.times))
    if float(gaps.max()) > (1 + 1e-6) * float(gaps.min()):
        return None
    differences = torch.diff(values, n=degree, dim=1).double()
    size = differences.pow(2).mean(dim=(0, 2, 3)).sqrt().pow(1 / degree)
    lead = (count - 1 - len(size)) // 2
    density = torch.cat([size[:1].expand(lead), size, size[-1:].expand(count - 1 - len(size) - lead)])
    if float(density.max()) <= EVEN * float(density.clamp(min=1e-30).min()):
        return None
    knots = equidistribute(torch.from_numpy(train.times), density, steps)
    frames = np.interp(knots.numpy(), train.times, np.arange(count))
    whole = np.round(frames).astype(int)
    whole[0], whole[-1] = 0, count - 1
    for i in range(1, len(whole)):
        whole[i] = max(whole[i], whole[i - 1] + 1)
    for i in range(len(whole) - 2, -1, -1):
        whole[i] = min(whole[i], whole[i + 1] - 1)
    return tuple(int(f) for f in whole) if whole[0] == 0 and whole[-1] == count - 1 else None


def node_density(train: Runs, pairs: np.ndarray, spread: Tensor | None = None) -> np.ndarray:
    """How dense coarse nodes should be at every node of a mesh, one on average.

    Linear interpolation across an edge errs by the second difference; equal errors need a density of its square root.
    The spread of an ensemble's members (R, T, N, C) is such an error that was seen, on nodes evenly apart.
    """
    if spread is not None:
        size = spread.double() / train.values.double().std(dim=(0, 1, 2)).clamp(min=1e-30)
        return _contrast(size.pow(2).mean((0, 1, 3)).sqrt().numpy())
    values = some(train)
    index = torch.from_numpy(np.concatenate([pairs[:, 0], pairs[:, 1]]))
    other = torch.from_numpy(np.concatenate([pairs[:, 1], pairs[:, 0]]))
    n = len(train.nodes)
    count = torch.bincount(index, minlength=n).clamp(min=1).double()
    total = torch.zeros(n, dtype=torch.float64)
    for r in range(values.shape[0]):
        frame = values[r].movedim(1, 0).flatten(1).double()
        around = torch.zeros_like(frame).index_add_(0, index, frame[other]) / count[:, None]
        total += (frame - around).pow(2).mean(1)
    length = np.linalg.norm(train.nodes[pairs[:, 0]] - train.nodes[pairs[:, 1]], axis=1)
    spacing = np.bincount(pairs.ravel(), np.repeat(length, 2), n) / np.maximum(1, np.bincount(pairs.ravel(), None, n))
    return _contrast(total.sqrt().numpy() / np.maximum(spacing, 1e-30) ** 2)


def denser(density: np.ndarray, squares: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """A density of nodes (N,) with more where splines between nodes of that density err, one on average.

        d <- d e^(1/2), e the local error by its root mean square

    Args:
        squares: (N,) mean squared error of the splines at every node of the mesh. pairs: (E, 2), the mesh's edges.
    """
    n = len(density)
    hearer, heard = np.concatenate([pairs, pairs[:, ::-1]]).T
    count = np.maximum(1, np.bincount(hearer, minlength=n))
    for _ in range(SMOOTHED):
        squares = 0.5 * (squares + np.bincount(hearer, squares[heard], n) / count)
    found = density * (squares / max(squares.mean(), 1e-300) + CALM) ** POWER
    found = np.clip(found / found.mean(), 1 / SHARPER, SHARPER)
    return np.asarray(found / found.mean())


def _contrast(error: np.ndarray) -> np.ndarray:
    """The density that makes errors of second order equal, one on average, within bounds."""
    density = np.sqrt(error)
    density /= max(density.mean(), 1e-30)
    return np.asarray(np.clip(density, 1 / CONTRAST, CONTRAST))
