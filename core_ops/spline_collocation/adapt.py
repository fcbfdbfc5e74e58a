"""Partitions that follow the solution: knots moved so that every cell holds the same share of a monitor.

Shapes: N cells between knots (..., N + 1); a density (..., N) is constant on each cell.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DomainError, ShapeError
from .checks import check_knots
from .evaluate import differentiate
from .op import SplineCollocation

# Share of the cells that the floor spreads evenly, so that no region is left without cells.
FLOOR = 0.1
# Widest ratio of neighbouring cells; the Lebesgue constant stays below 3 up to order 5.
RATIO = 10.0


def curvature(spline: SplineCollocation, coeffs: Float[Tensor, "*b n"]) -> Float[Tensor, "*c k"]:
    """The density of the interpolation error, |u^(r+1)|^(1/(r+1)) on every cell.

    u^(r+1) is the jump of the spline's r-th derivative between neighbouring cells over the distance of their centres,
    the larger one of both sides.

    Args:
        spline: Of N >= 2 cells. coeffs: From `fit`.
    Returns: (..., N), without gradient.
    Raises: ShapeError: one cell alone has no neighbour.
    """
    n, r = spline.cells, spline.order
    if n < 2:
        raise ShapeError("curvature: the spline has one cell; needed: two or more, or another monitor.")
    with torch.no_grad():
        wide = coeffs.double()
        widths = spline.knots.diff().double()
        top = differentiate(wide, widths, spline.cell.to(wide), r, r)[..., :: r + 1]
        jump = top.diff().abs() / ((widths[..., 1:] + widths[..., :-1]) / 2)
        left, right = torch.cat([jump[..., :1], jump], -1), torch.cat([jump, jump[..., -1:]], -1)
        return torch.maximum(left, right).pow(1 / (r + 1)).to(coeffs.dtype)


def indicator_density(
    knots: Float[Tensor, "*#b m"], indicator: Float[Tensor, "*#b n"], order: int
) -> Float[Tensor, "*b n"]:
    """The density behind an error that was seen on each cell: a residual, or the spread of an ensemble.

    An error of order r + 1 is e_i = c_i h_i^(r+1), so that c_i^(1/(r+1)) = e_i^(1/(r+1)) / h_i.

    Args:
        knots: (..., N + 1). indicator: e (..., N), say the largest |residual| or standard deviation on each cell.
        order: r.
    Returns: (..., N).
    Raises: DomainError: a negative or NaN indicator.
    """
    if not bool((indicator >= 0).all()):
        raise DomainError("indicator_density: an indicator is negative or NaN; give sizes, one for each cell.")
    return indicator.pow(1 / (order + 1)) / knots.diff()


def equidistribute(
    knots: Float[Tensor, "*#b m"],
    density: Float[Tensor, "*#b n"],
    cells: int | None = None,
    *,
    floor: float = FLOOR,
    ratio: float = RATIO,
) -> Float[Tensor, "*b k"]:
    """New knots, each cell with the same integral of the density.

    The density is raised to at least `floor` of its mean, and to fall from cell to cell no faster than the ratio
    allows: the partition is graded, and with it the spline's Lebesgue constant bounded.

    Args:
        knots: (..., N + 1), the cells of the density; any number of them, so that a fine grid can drive few cells.
        density: (..., N), not negative; all zero gives cells of one width.
        cells: Of the new partition; N unless given.
        floor: Share of the mean density that every place has at least, 0 < floor <= 1.
        ratio: Widest ratio of neighbouring new cells, > 1, as far as the density's cells are not wider than these.
    Returns: (..., cells + 1), the same ends. Differentiable in knots and density.
    Raises: ShapeError: lengths. DomainError: unsorted knots; a density that is negative or NaN; floor or ratio.
    Complexity: O(N + cells log N) a partition.
    Source: de Boor 1973, "Good approximation by splines with variable knots" (equidistribution).
    """
    check_knots(knots)
    if density.shape[-1] != knots.shape[-1] - 1:
        raise ShapeError(
            f"equidistribute: density has shape {tuple(density.shape)}; needed: one for each of"
            f" {knots.shape[-1] - 1} cells."
        )
    if not bool((density >= 0).all()) or not bool(density.isfinite().all()):
        raise DomainError("equidistribute: a density is negative, infinite or NaN; give sizes, one for each cell.")
    if not (0 < floor <= 1 < ratio):
        raise DomainError(f"equidistribute: floor={floor}, ratio={ratio}; accepted: 0 < floor <= 1 < ratio.")
    count = density.shape[-1] if cells is None else cells
    if count < 1:
        raise ShapeError(f"equidistribute: cells={cells}; accepted: 1 or more.")
    widths = knots.diff()
    length = widths.sum(-1, keepdim=True)
    mean = (density * widths).sum(-1, keepdim=True) / length
    density = torch.where(mean > 0, density / torch.where(mean > 0, mean, 1.0), 1.0).clamp(min=floor)
    density = _graded(knots, density, count, ratio)
    mass = torch.nn.functional.pad((density * widths).cumsum(-1), (1, 0))
    share = torch.linspace(0, 1, count + 1, dtype=mass.dtype, device=mass.device)[1:-1]
    wanted = mass[..., -1:] * share
    at = torch.searchsorted(mass.detach()[..., 1:-1].contiguous(), wanted.detach().contiguous(), right=True)
    start = knots[..., :-1].expand_as(density).gather(-1, at)
    inner = start + (wanted - mass.gather(-1, at)) / density.gather(-1, at)
    batch = inner.shape[:-1]
    ends = knots[..., :1].expand(*batch, 1), knots[..., -1:].expand(*batch, 1)
    return torch.cat([ends[0], inner, ends[1]], -1)


def _graded(knots: Tensor, density: Tensor, count: int, ratio: float) -> Tensor:
    """The density, raised so that the cells it makes grow no faster than `ratio`.

    A cell at x is as wide as h(x) = mass / (count density(x)). Neighbours' ratio stays below the bound when |h'| stays
    below a slope c; the smallest h below h with that slope is min_y h(y) + c |x - y|.
    """
    mass = (density * knots.diff()).sum(-1, keepdim=True)
    width = mass / (count * density)
    slope = 2 * (ratio - 1) / (ratio + 1)
    far = slope * (knots[..., :-1] + knots[..., 1:]) / 2
    # The least bound from the left and from the right, each by one running minimum.
    from_left = far + (width - far).cummin(-1).values
    from_right = (width + far).flip(-1).cummin(-1).values.flip(-1) - far
    return mass / (count * torch.minimum(from_left, from_right))
