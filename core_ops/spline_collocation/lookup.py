"""Cells and tables of many series, looked up on a CPU.

torch gathers one number at a time; its sampler of images gathers a whole vector register. Series are the rows of an
image, cells its columns, and what a cell holds its channels.
Shapes: R series; N cells; Q queries of each; C channels; W images of H = R / W series; tables (C, S, R), S >= N.
"""

import math

import torch
from torch import Tensor

# The sampler takes places as numbers from -1 to 1: so many rows, and cells, float32 tells apart.
ROWS, CELLS = 2**20, 2**16
# Values of torch.grid_sampler_2d: the nearest pixel, the border's beyond it.
NEAREST, BORDER = 1, 1
# The place of the first cell.
FIRST = {dtype: torch.full((), -1.0, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)}


def depth(cells: int) -> int:
    """S: the rows of a table in which `search` looks, one and a half times the next power of two."""
    size = 1 << (cells - 1).bit_length()
    return size + size // 2


def fill(table: Tensor, knots: Tensor) -> None:
    """Puts the starts of the cells, from knots (R, N + 1), into channel 0 of a table; behind them infinity."""
    n = knots.shape[-1] - 1
    table[0, :n] = knots.mT[:n]
    table[0, n:] = float("inf")


def places_shape(series: int, queries: int) -> tuple[int, int, int]:
    """(W, H, Q): as many images as there are threads where the series come out even, else fewer."""
    images = math.gcd(series, torch.get_num_threads())
    return images, series // images, queries


def places(shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """Room for the places of queries, (W, H, Q, 2): columns, and the rows, which are filled in; contiguous apart."""
    grid = torch.empty(2, *shape, dtype=dtype, device="cpu")
    grid[1] = torch.linspace(-1, 1, shape[1], dtype=dtype, device="cpu")[:, None]
    return grid.permute(1, 2, 3, 0)


def sample(table: Tensor, at: Tensor, cells: int, start: int = 0, later: int = 0, channels: int = 1) -> Tensor:
    """table[:channels, cell + later, series] of all queries.

    Args:
        table: (C, S, R). at: Places (W, H, Q, 2), as `search` gives them, of the W H series from `start` on.
    Returns: (W, channels, H, Q).
    """
    images, height, _, _ = at.shape
    plane, row, _ = table.stride()
    view = table.as_strided((images, channels, height, cells), (height, plane, 1, row), later * row + start)
    return torch.grid_sampler_2d(view, at, NEAREST, BORDER, True)


def search(table: Tensor, x: Tensor, at: Tensor, cells: int, start: int, beyond: Tensor) -> None:
    """Writes the cell of every query, the right one at a knot, into its place.

    Args:
        table: (C, S, R), filled. x: (W, H, Q), of the W H series from `start` on. at: (W, H, Q, 2).
        beyond: Room like x.
    """
    images, height, _, _ = at.shape
    row = table.stride(1)
    cell, step = at.select(-1, 0), 2 / max(cells - 1, 1)
    size = max(1, (1 << (cells - 1).bit_length()) // 4)
    if cells == 1:
        cell.fill_(-1)
    # Two binary digits by three comparisons, the others by looking up what to compare with.
    total = FIRST[x.dtype]
    for k in range(size, min(4 * size, cells), size):
        torch.ge(x, table.as_strided((images, height, 1), (height, 1, 1), k * row + start), out=beyond)
        total = torch.add(total, beyond, alpha=size * step, out=cell)
    while size := size // 2:
        knot = sample(table, at, cells, start, size).select(1, 0)
        cell.add_(torch.ge(x, knot, out=knot), alpha=size * step)


def find(knots: Tensor, x: Tensor) -> Tensor:
    """The cell of every query (R, Q) between knots (R, N + 1), as integers."""
    n = knots.shape[-1] - 1
    table = knots.new_empty(1, depth(n), len(knots))
    fill(table, knots)
    shape = places_shape(len(x), x.shape[1])
    at = places(shape, x.dtype)
    search(table, x.view(shape), at, n, 0, x.new_empty(shape))
    return at[..., 0].add_(1).mul_((n - 1) / 2).round_().long().view(x.shape)
