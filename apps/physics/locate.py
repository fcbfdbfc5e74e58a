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
        # Barycentric coordinates 1 and 2 are rows . (x, y, 1).
        self.rows = torch.from_numpy(np.concatenate([inverse, offset[:, :, None]], axis=2).reshape(-1, 6))
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        size = float(np.sqrt(np.prod(high - low) / (BINS * len(triangles))))
        self.low, self.size = torch.from_numpy(low), size
        self.shape = tuple(int(n) for n in np.maximum(1, np.ceil((high - low) / size)))
        bins, owners, inside = self._overlaps(corners)
        # Of the triangles in a bin, the one that holds its centre is tried first.
        order = np.lexsort((-inside, bins))
        count = np.bincount(bins, minlength=self.shape[0] * self.shape[1])
        self.owners = torch.from_numpy(owners[order])
        self.start = torch.from_numpy(np.concatenate([[0], np.cumsum(count)]))

    def _overlaps(self, corners: Array) -> tuple[Index, Index, Array]:
        """Pairs (bin, triangle) whose areas may meet, and how far inside the bin's centre lies."""
        low, size = self.low.numpy(), self.size
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
        rows = self.rows.numpy().reshape(-1, 2, 3)[owner]
        two = (rows[:, :, :2] * centre[:, None]).sum(axis=2) + rows[:, :, 2]
        slopes = np.concatenate([-rows[:, :, :2].sum(axis=1, keepdims=True), rows[:, :, :2]], axis=1)
        place = np.concatenate([1 - two.sum(axis=1, keepdims=True), two], axis=1)
        most = place + np.abs(slopes).sum(axis=2) * size * (0.5 + 1e-6)
        meets = (most >= -SLACK).all(axis=1)
        return (at[:, 0] * self.shape[1] + at[:, 1])[meets], owner[meets], place.min(axis=1)[meets]

    def find(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Triangle (Q,), -1 outside of all, and barycentric coordinates (Q, 3) of points (Q, 2)."""
        at = (points - self.low) / self.size
        limit = torch.tensor(self.shape, dtype=torch.float64)
        near = ((at > -0.5) & (at < limit + 0.5)).all(1)
        cell = torch.minimum(at.nan_to_num(0.0).clamp(min=0), limit - 1).long()
        row = cell[:, 0] * self.shape[1] + cell[:, 1]
        turn, end = self.start[row], self.start[row + 1]
        # The first candidate of most points is the right one: all are tried at once, the rest one by one.
        triangle = self.owners[turn.clamp(max=len(self.owners) - 1)]
        place = self._place(points, triangle)
        miss = (place.amin(1) < -SLACK) | (turn >= end) | ~near
        left = (miss & near).nonzero()[:, 0]
        triangle[miss] = -1
        turn, end = turn[left] + 1, end[left]
        while len(left):
            more = turn < end
            left, turn, end = left[more], turn[more], end[more]
            owner = self.owners[turn]
            here = self._place(points[left], owner)
            hit = here.amin(1) >= -SLACK
            found = left[hit]
            triangle[found], place[found] = owner[hit], here[hit]
            left, turn, end = left[~hit], turn[~hit] + 1, end[~hit]
        return triangle, place

    def _place(self, points: Tensor, triangle: Tensor) -> Tensor:
        """Barycentric coordinates (Q, 3) in given triangles."""
        rows, (x, y) = self.rows[triangle], points.unbind(1)
        one = torch.addcmul(torch.addcmul(rows[:, 2], rows[:, 0], x), rows[:, 1], y)
        two = torch.addcmul(torch.addcmul(rows[:, 5], rows[:, 3], x), rows[:, 4], y)
        return torch.stack([1 - one - two, one, two], 1)
