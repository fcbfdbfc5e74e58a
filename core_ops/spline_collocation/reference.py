"""Definition: the C1 piecewise polynomial through its points, by the dense collocation system in float64."""

import math

import torch
from torch import Tensor


def spline_collocation_reference(
    knots: Tensor, points: Tensor, y: Tensor, left: Tensor, right: Tensor, x: Tensor, order: int, derivative: int = 0
) -> Tensor:
    """S(x), where S(points) = y, S(p_0) = left, S(p_N) = right and S is C1, of degree r on every cell.

    Args:
        knots: (N + 1). points: (N (r - 1)), r - 1 inside each cell. y: (N (r - 1), k). left, right: (k).
        x: Queries (Q). derivative: 0, 1 or 2.
    Returns: (Q, k).
    Complexity: O((N r)^3).
    Source: Hua et al. 2023, "GraphSplineNets", arXiv:2310.16397.
    """
    n, s = len(knots) - 1, order + 1

    def rows(t: Tensor, cell: Tensor, times: int) -> Tensor:
        # Derivatives of the powers of the local coordinate, in the columns of the cell.
        width = knots[cell + 1] - knots[cell]
        local = (t - knots[cell]) / width
        powers = torch.stack([math.perm(j, times) * local ** max(j - times, 0) for j in range(s)], -1)
        full = torch.zeros(len(t), n, s, dtype=knots.dtype)
        full[torch.arange(len(t)), cell] = powers / width[:, None] ** times
        return full.flatten(1)

    cells = torch.arange(n)
    at_points = rows(points, cells.repeat_interleave(order - 1), 0)
    jumps = [rows(knots[1:-1], cells[:-1], d) - rows(knots[1:-1], cells[1:], d) for d in (0, 1)]
    edges = [rows(knots[:1], cells[:1], 0), rows(knots[-1:], cells[-1:], 0)]
    a = torch.cat([at_points, *jumps, *edges])
    zeros = torch.zeros(2 * (n - 1), y.shape[1], dtype=knots.dtype)
    coefficients = torch.linalg.solve(a, torch.cat([y, zeros, left[None], right[None]]))
    at = torch.searchsorted(knots[1:-1].contiguous(), x, right=True)
    values: Tensor = rows(x, at, derivative) @ coefficients
    return values
