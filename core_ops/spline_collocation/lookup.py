"""Cells and tables of many series, looked up on a CPU.

torch gathers one number at a time; its sampler of images gathers a whole vector register. Series are the rows of an
image, cells its columns, and what a cell holds its channels.
Shapes: R series; N cells; Q queries of each; C channels; W images of H = R / W series; tables (C, S, R), S >= N.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# The sampler takes places as numbers from -1 to 1: so many rows, and cells, float32 tells apart.
ROWS, CELLS = 2**20, 2**16


def depth(cells: int) -> int:
    """S: the rows of a table in which `search` looks, one and a half times the next power of two."""
    size = 1 << (cells - 1).bit_length()
    return size + size // 2


def fill(table: Tensor, knots: Tensor) -> None:
    """Puts the starts of the cells, from knots (R, N + 1), into channel 0 of a table; behind them infinity."""
    n = knots.shape[-1] - 1
    table[0, :n] = knots.mT[:n]
    table[0, n:] = float("inf")


def places(series: int, queries: int, dtype: torch.dtype) -> Tensor:
    """Room for the places of queries, (W, H, Q, 2): columns, and the rows, which are filled in; contiguous apart.

    W is as many images as there are threads where the series come out even, else fewer.
    """
    images = math.gcd(series, torch.get_num_threads())
    height = series // images
    grid = torch.empty(2, images, height, queries, dtype=dtype)
    grid[1] = torch.linspace(-1, 1, height, dtype=dtype)[:, None]
    return grid.permute(1, 2, 3, 0)


def sample(table: Tensor, at: Tensor, cells: int, start: int = 0, later: int = 0) -> Tensor:
    """table[:, cell + later, series] of all queries.

    Args:
        table: (C, S, R). at: Places (W, H, Q, 2), as `search` gives them, of the W H series from `start` on.
    Returns: (W, C, H, Q).
    """
    images, height = at.shape[:2]
    channels, _, series = table.shape
    view = table.as_strided(
        (images, channels, height, cells),
        (height, table.stride(0), 1, series),
        table.storage_offset() + later * series + start,
    )
    return F.grid_sample(view, at, "nearest", "border", align_corners=True)


def search(table: Tensor, x: Tensor, at: Tensor, cells: int, start: int = 0) -> None:
    """Writes the cell of every query, the right one at a knot, into its place.

    Args:
        table: (C, S, R), filled. x: (W, H, Q), of the W H series from `start` on. at: (W, H, Q, 2).
    """
    images, height = at.shape[:2]
    cell, step = at[..., 0], 2 / max(cells - 1, 1)
    size = max(1, (1 << (cells - 1).bit_length()) // 4)
    if cells == 1:
        cell.fill_(-1)
    # Two binary digits by three comparisons, the others by looking up what to compare with.
    total = torch.full((), -1.0, dtype=x.dtype)
    beyond = torch.empty_like(x)
    for row in range(size, min(4 * size, cells), size):
        knot = table[0, row, start : start + images * height].view(images, height, 1)
        total = torch.add(total, torch.ge(x, knot, out=beyond), alpha=size * step, out=cell)
    while size := size // 2:
        knot = sample(table[:1], at, cells, start, size)[:, 0]
        cell.add_(torch.ge(x, knot, out=knot), alpha=size * step)


def find(knots: Tensor, x: Tensor) -> Tensor:
    """The cell of every query (R, Q) between knots (R, N + 1), as integers."""
    n = knots.shape[-1] - 1
    table = knots.new_empty(1, depth(n), len(knots))
    fill(table, knots)
    at = places(len(x), x.shape[1], x.dtype)
    search(table, x.view(at.shape[:-1]), at, n)
    return at[..., 0].add_(1).mul_((n - 1) / 2).round_().long().view(x.shape)
