"""What is known at both ends of the domain, and how much of a data vector that is."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import ShapeError
from .cell import Cell

End = Literal["dirichlet", "neumann", "free", "periodic"]
GIVEN = ("dirichlet", "neumann")


@dataclass(frozen=True)
class Ends:
    """Left and right end."""

    left: str
    right: str

    @property
    def periodic(self) -> bool:
        """Whether the domain is a circle."""
        return self.left == "periodic"

    @property
    def given(self) -> tuple[int, int]:
        """How many entries of a data vector the left and the right end take: 0 or 1."""
        return int(self.left in GIVEN), int(self.right in GIVEN)


def ends_of(ends: str | tuple[str, str]) -> Ends:
    """Check and unpack.

    Raises: ShapeError: an unknown kind, or one periodic end.
    """
    pair = (ends, ends) if isinstance(ends, str) else tuple(ends)
    kinds = get_args(End)
    if len(pair) != 2 or any(e not in kinds for e in pair) or (pair.count("periodic") == 1):
        accepted = ", ".join(map(repr, kinds))
        raise ShapeError(
            f"SplineCollocation: ends={ends!r}; accepted: one of {accepted}, or a pair (left, right) without"
            " 'periodic'."
        )
    return Ends(*pair)


def extrapolation(points: Tensor, x: Tensor) -> Tensor:
    """Weights of the polynomial through all points at x.

    Args:
        points: (..., m), x: (..., 1).
    Returns: (..., m).
    """
    eye = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
    gaps = points[..., :, None] - points[..., None, :] + eye
    above = torch.where(eye.bool(), 1.0, x[..., None] - points[..., None, :])
    return (above / gaps).prod(-1)


def end_values(y: Tensor, widths: Tensor, cell: Cell, order: int, left: bool) -> Tensor:
    """The value at an end that is free: the polynomial of degree r through the nearest r + 1 points, or all there are.

    Args:
        y: Values at the points (..., N, r - 1). widths: (..., N). cell: Of all cells, or of each.
    Returns: (...), the value at the left end or at the right one.
    """
    cells = min(widths.shape[-1], -(-(order + 1) // (order - 1)))
    count = min(order + 1, cells * (order - 1))
    if left:
        h, near = widths[..., :cells], slice(0, count)
        values = y[..., :cells, :].flatten(-2)
        inner = cell.nodes[..., :cells, 1:-1] if cell.nodes.dim() > 1 else cell.nodes[1:-1]
    else:
        h, near = widths[..., -cells:], slice(cells * (order - 1) - count, cells * (order - 1))
        values = y[..., -cells:, :].flatten(-2)
        inner = cell.nodes[..., -cells:, 1:-1] if cell.nodes.dim() > 1 else cell.nodes[1:-1]
    starts = h.cumsum(-1) - h
    points = (starts[..., None] + h[..., None] * inner).flatten(-2)
    at = torch.zeros_like(h[..., :1]) if left else h.sum(-1, keepdim=True)
    return (values[..., near] * extrapolation(points[..., near], at)).sum(-1)
