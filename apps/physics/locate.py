"""Which triangle a point lies in: a grid of bins, each with the few triangles that reach into it.

Shapes: M triangles, Q points.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# Bins a triangle, and how far outside of its triangle, as a share of its size, a point still counts as on its side.
BINS, SLACK = 32, 1e-9


class Locator:
    """Finds triangles by position.

    Args:
        nodes: (N, 2). triangles: (M, 3), of positive or negative orientation.
    """

    def __init__(self, nodes: Array, triangles: Index) -> None:
        corners = nodes[triangles]
        sides = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], axis=2)
        inverse = np.linalg.inv(sides)
        offset = -(inverse @ corners[:, 0, :, None])[..., 0]
        two = np.concatenate([inverse, offset[:, :, None]], axis=2)
        # Barycentric coordinate k is rows[k] . (x, y, 1); one row of the table holds x, y and 1 of all three.
        rows = np.concatenate([np.array([0, 0, 1]) - two.sum(axis=1, keepdims=True), two], axis=1)
        self.table = torch.from_numpy(rows.transpose(0, 2, 1).reshape(-1, 9))
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        size = float(np.sqrt(np.prod(high - low) / (BINS * len(triangles))))
        self.low, self.scale = torch.from_numpy(low)[:, None], 1 / size
        self.shape = tuple(int(n) for n in np.maximum(1, np.ceil((high - low) / size)))
        self.last = torch.tensor(self.shape)[:, None] - 1
        bins, owners, inside = self._overlaps(corners, rows, low, size)
        # Of the triangles in a bin, the one that holds its centre is tried first.
        order = np.lexsort((-inside, bins))
        count = np.bincount(bins, minlength=self.shape[0] * self.shape[1])
        self.owners = torch.from_numpy(owners[order].astype(np.int32))
        self.start = torch.from_numpy(np.concatenate([[0], np.cumsum(count)]))
        # A bin without any may name any: the point turns out to lie outside.
        self.first = self.owners[self.start[:-1].clamp(max=len(self.owners) - 1)]

    def _overlaps(self, corners: Array, rows: Array, low: Array, size: float) -> tuple[Index, Index, Array]:
        """Pairs (bin, triangle) whose areas may meet, and how far inside the bin's centre lies."""
        first = np.clip(np.floor((corners.min(axis=1) - low) / size - 1e-6), 0, None).astype(np.int64)
        last = np.floor((corners.max(axis=1) - low) / size + 1e-6).astype(np.int64)
        first, last = (np.minimum(x, np.array(self.shape) - 1) for x in (first, last))
        wide = last - first + 1
        count = wide.prod(axis=1)
        owner = np.repeat(np.arange(len(corners)), count)
        rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        at = first[owner] + np.stack([rank // wide[owner, 1], rank % wide[owner, 1]], axis=1)
        # A side's line that has the whole bin on its far side parts the two.
        centre = low + (at + 0.5) * size
        slopes = rows[owner][:, :, :2]
        place = (slopes * centre[:, None]).sum(axis=2) + rows[owner][:, :, 2]
        most = place + np.abs(slopes).sum(axis=2) * size * (0.5 + 1e-6)
        meets = (most >= -SLACK).all(axis=1)
        return (at[:, 0] * self.shape[1] + at[:, 1])[meets], owner[meets], place.min(axis=1)[meets]

    def find(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Triangle (Q,), -1 outside of all, and barycentric coordinates (3, Q) of points (Q, 2)."""
        x = points.mT.contiguous()
        cell = torch.minimum(((x - self.low) * self.scale).long().clamp_(min=0), self.last)
        row = torch.add(cell[1], cell[0], alpha=self.shape[1])
        # The first candidate of most points is the right one: all are tried at once, the rest one by one.
        triangle = self.first.index_select(0, row)
        place = self._place(x, triangle)
        # NaN is in no triangle.
        left = (place.amin(0) >= -SLACK).logical_not_().nonzero()[:, 0]
        if not len(left):
            return triangle, place
        triangle[left] = -1
        row = row[left]
        turn, end = self.start[row] + 1, self.start[row + 1]
        while len(left):
            more = turn < end
            left, turn, end = left[more], turn[more], end[more]
            owner = self.owners[turn]
            here = self._place(x[:, left], owner)
            hit = here.amin(0) >= -SLACK
            found = left[hit]
            triangle[found], place[:, found] = owner[hit], here[:, hit]
            left, turn, end = left[~hit], turn[~hit] + 1, end[~hit]
        return triangle, place

    def coordinates(self, points: Tensor, triangle: Tensor) -> Tensor:
        """Barycentric coordinates (3, Q) of points (Q, 2) in triangles of theirs, inside or not."""
        return self._place(points.mT.contiguous(), triangle)

    def slopes(self, triangle: Tensor, axis: int) -> Tensor:
        """How the barycentric coordinates of triangles change along x or y, (3, Q)."""
        return self.table.index_select(0, triangle)[:, 3 * axis : 3 * axis + 3].mT

    def _place(self, x: Tensor, triangle: Tensor) -> Tensor:
        """Barycentric coordinates (3, Q) of points (2, Q) in given triangles."""
        rows = self.table.index_select(0, triangle).mT.contiguous()
        return torch.addcmul(rows[6:], rows[:3], x[0]).addcmul_(rows[3:6], x[1])
