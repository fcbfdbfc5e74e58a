"""What a partition, data and queries have to be."""

import math

import torch
from torch import Tensor

from ..errors import DomainError, DtypeError, ShapeError


def looks(check: bool, x: Tensor) -> bool:
    """Whether values may be looked at: not while a graph is traced or captured."""
    if not check or torch.compiler.is_compiling():
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def version(x: Tensor) -> int:
    """How often a tensor was written to in place; -1 where it does not tell: under inference mode, in a trace."""
    return -1 if torch.compiler.is_compiling() or x.is_inference() else x._version


def unchanged(x: Tensor, known: Tensor, then: int) -> bool:
    """Whether x is the tensor that was known, and has not been written to since."""
    return x is known and then >= 0 and then == version(x)


def check_knots(knots: Tensor) -> Tensor:
    """The knots, when they are finite and strictly increasing.

    Raises: ShapeError, DtypeError, DomainError.
    """
    if knots.dim() < 1 or knots.shape[-1] < 2:
        raise ShapeError(f"SplineCollocation: knots has shape {tuple(knots.shape)}; needed: (..., N + 1) with N >= 1.")
    if knots.dtype not in (torch.float32, torch.float64):
        raise DtypeError(f"SplineCollocation: knots are {knots.dtype}; accepted: float32, float64.")
    if looks(True, knots) and knots.numel():
        flat = knots.detach().reshape(-1, knots.shape[-1])
        # NaN is the least and the most of all, and infinity the most: two numbers say that all is well.
        least, most = flat.diff().aminmax()
        if not knots.is_cuda and float(least) > 0 and math.isfinite(float(most)):
            return knots
        bad = ~((flat.diff() > 0) & flat[:, 1:].isfinite() & flat[:, :-1].isfinite())
        if bool(bad.any()):
            row, at = bad.nonzero()[0].tolist()
            left, right = flat[row, at : at + 2].tolist()
            raise DomainError(
                f"SplineCollocation: knots {at} and {at + 1} are {left:g} and {right:g}; needed: finite and strictly"
                " increasing. Sort them, drop duplicates and NaN."
            )
    return knots


def check_points(points: Tensor, knots: Tensor, order: int) -> Tensor:
    """Own points, when r - 1 of them, increasing, lie strictly inside each cell.

    Raises: ShapeError, DtypeError, DomainError.
    """
    cells = knots.shape[-1] - 1
    if points.dim() < 1 or points.shape[-1] != cells * (order - 1):
        raise ShapeError(
            f"SplineCollocation: points has shape {tuple(points.shape)}; needed: (..., {cells * (order - 1)}),"
            f" {order - 1} for each of {cells} cells."
        )
    if points.dtype != knots.dtype or points.device != knots.device:
        raise DtypeError(f"SplineCollocation: points are {points.dtype}, knots {knots.dtype}; needed: the same.")
    if looks(True, points):
        inside = points.detach().reshape(*points.shape[:-1], cells, order - 1)
        fenced = torch.cat([knots.detach()[..., :-1, None].expand(*inside.shape[:-1], 1), inside], -1)
        fenced = torch.cat([fenced, knots.detach()[..., 1:, None].expand(*inside.shape[:-1], 1)], -1)
        if not bool((fenced.diff() > 0).all()):
            raise DomainError(
                f"SplineCollocation: points are not increasing, {order - 1} strictly inside each cell;"
                " a point on a knot, in another cell or NaN came."
            )
    return points


def check_finite(what: str, name: str, x: Tensor, check: bool) -> None:
    """Refuses NaN and infinity.

    Raises: DomainError.
    """
    # One sum is cheaper than looking at every entry; a finite sum has finite terms.
    if not looks(check, x) or math.isfinite(x.detach().sum().item()):
        return
    bad = (~x.detach().isfinite()).nonzero()
    if len(bad):
        raise DomainError(
            f"{what}: {len(bad)} entries of {name} are NaN or infinite, the first at {tuple(bad[0].tolist())};"
            " fill or drop them."
        )


def check_inside(what: str, x: Tensor, knots: Tensor, check: bool) -> None:
    """Refuses queries outside the domain; rounding of x itself is let through.

    Raises: DomainError.
    """
    if not looks(check, x) or x.numel() == 0:
        return
    x = x.detach()
    if not x.is_cuda:
        # Where the widest start and the narrowest end hold all queries two numbers say so: many times quicker.
        start, end = float(knots.detach()[..., 0].max()), float(knots.detach()[..., -1].min())
        margin = 4 * torch.finfo(x.dtype).eps * max(abs(start), abs(end))
        smallest, largest = x.aminmax()
        if float(smallest) >= start - margin and float(largest) <= end + margin:
            return
    ends = knots.detach()[..., [0, -1]]
    slack = 4 * torch.finfo(x.dtype).eps * ends.abs().amax(-1, keepdim=True)
    low, high = ends[..., :1] - slack, ends[..., 1:] + slack
    # NaN is the least and the most of its row, and fails both comparisons.
    least, most = x.aminmax(dim=-1, keepdim=True)
    if not bool(((least >= low) & (most <= high)).all()):
        first, last = float(ends[..., 0].min()), float(ends[..., 1].max())
        raise DomainError(
            f"{what}: queries in [{float(x.min()):g}, {float(x.max()):g}] came; the domain is [{first:g}, {last:g}]."
            " Clip or drop what lies outside (or is NaN), or take ends='periodic'."
        )
