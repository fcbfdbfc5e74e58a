"""One cell [0, 1] with its r + 1 nodes: both ends and r - 1 points between; Lagrange's basis on them.

Shapes: r order; N cells; r + 1 nodal values u of a polynomial of degree r on a cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ORDERS = range(2, 9)
# Gauss-Legendre points and weights on [0, 1], as many as the key says; exact to degree 2 key - 1.
QUADRATURE: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    n: (tuple(((x + 1) / 2).tolist()), tuple((w / 2).tolist()))
    for n, (x, w) in ((n, np.polynomial.legendre.leggauss(n)) for n in range(1, max(ORDERS)))
}


@dataclass(frozen=True)
class Cell:
    """Nodes, barycentric weights and derivatives on the unit cell; leading dimensions where points are a cell's own.

    Args:
        nodes: (..., r + 1), 0 first and 1 last. weights: 1 / prod_j (s_k - s_j).
        derivative: (..., r + 1, r + 1); row j holds the derivatives of the basis at node j.
    """

    nodes: Tensor
    weights: Tensor
    derivative: Tensor

    def to(self, x: Tensor) -> "Cell":
        """In the dtype and on the device of x."""
        return Cell(self.nodes.to(x), self.weights.to(x), self.derivative.to(x))


def cell_of(points: Tensor) -> Cell:
    """The cell with these points between its ends.

    Args:
        points: (..., r - 1), increasing, strictly between 0 and 1.
    """
    ends = points.new_zeros(*points.shape[:-1], 1)
    nodes = torch.cat([ends, points, ends + 1], -1)
    eye = torch.eye(nodes.shape[-1], dtype=nodes.dtype, device=nodes.device)
    gaps = nodes[..., :, None] - nodes[..., None, :] + eye
    weights = 1 / gaps.prod(-1)
    off = weights[..., None, :] / weights[..., :, None] / gaps * (1 - eye)
    # Rows of a differentiation matrix sum to zero: constants have no slope.
    return Cell(nodes, weights, off - torch.diag_embed(off.sum(-1)))


CELLS = {order: cell_of(torch.tensor(QUADRATURE[order - 1][0], dtype=torch.float64)) for order in ORDERS}


def gauss(order: int) -> Cell:
    """The cell with the r - 1 Gauss-Legendre points, float64.

    There derivative[r, r] = -derivative[0, 0] = r^2 - r + 1 and derivative[r, 0] = -derivative[0, r] = (-1)^r.
    """
    return CELLS[order]


def basis(s: Tensor, nodes: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """l_k(s) = weights[k] prod_{j != k} (s - nodes[j]), by products from both sides: no division.

    Args:
        s: Local coordinates. nodes, weights: Of the cell of every s, or scalars.
    Returns: r + 1 tensors like s.
    """
    factors = [s - node for node in nodes]
    before, after = [factors[0]], [factors[-1]]
    for f in factors[1:-1]:
        before.append(before[-1] * f)
    for f in factors[-2:0:-1]:
        after.append(after[-1] * f)
    # before[k] holds the factors up to k, after[k] the last k + 1.
    inner = [before[k - 1] * after[-1 - k] * weights[k] for k in range(1, len(factors) - 1)]
    return [after[-1] * weights[0], *inner, before[-1] * weights[-1]]
