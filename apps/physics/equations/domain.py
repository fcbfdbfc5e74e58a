"""Rectangles with disks and bars cut out, and triangles for them.

Signed distances are negative inside the domain. Source of the spring relaxation: Persson and Strang 2004, "A simple
mesh generator in MATLAB", SIAM Review 46(2), 329-345.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.apps.training import UserError

Array = NDArray[np.float64]
# Length of a relaxed spring over the wanted one: springs that push a little spread the nodes.
STRETCH = 1.2
ROUNDS = 120
# A triangle's quality is 4 sqrt(3) area / sum of squared sides: 1 for an equilateral one.
LEAST_QUALITY = 0.2


@dataclass(frozen=True)
class Disk:
    """A round obstacle."""

    name: str
    center: tuple[float, float]
    radius: float

    def distance(self, x: Array) -> Array:
        """Signed distance of points (N, 2) to the rim, negative inside the obstacle."""
        return np.asarray(np.hypot(x[:, 0] - self.center[0], x[:, 1] - self.center[1]) - self.radius)

    def rim(self, size: float) -> Array:
        """Points on the circle, at most `size` apart."""
        # An even number: the foremost and the rearmost point are among them.
        count = max(8, 2 * int(np.ceil(np.pi * self.radius / size)))
        angle = 2 * np.pi * np.arange(count) / count
        return np.array(self.center) + self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


@dataclass(frozen=True)
class Bar:
    """An obstacle with straight sides, parallel to the axes: a wall."""

    name: str
    low: tuple[float, float]
    high: tuple[float, float]

    def distance(self, x: Array) -> Array:
        """Signed distance of points (N, 2) to the sides, negative inside the obstacle."""
        middle = (np.array(self.low) + np.array(self.high)) / 2
        beyond = np.abs(x - middle) - (np.array(self.high) - np.array(self.low)) / 2
        return np.asarray(np.hypot(*np.maximum(beyond, 0).T) + np.minimum(beyond.max(axis=1), 0))

    def rim(self, size: float) -> Array:
        """Points on the sides, corners among them, at most `size` apart."""
        (x0, y0), (x1, y1) = self.low, self.high
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        return np.concatenate([_side(a, b, size) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)])


@dataclass(frozen=True)
class Domain:
    """The rectangle [0, length_x] x [0, length_y] without its obstacles.

    Args:
        length: Sides.
        obstacles: What is cut out; they must neither touch each other nor the sides.
    Raises: UserError: a length is not positive, obstacles touch.
    """

    length: tuple[float, float]
    obstacles: tuple[Disk | Bar, ...] = ()

    def __post_init__(self) -> None:
        """Looks at the geometry once."""
        if min(self.length) <= 0:
            raise UserError(f"a domain of {self.length[0]} x {self.length[1]} m: both sides have to be above 0")
        for i, obstacle in enumerate(self.obstacles):
            rim = obstacle.rim(min(self.length) / 100)
            if (self._walls(rim) >= 0).any():
                raise UserError(f"the {obstacle.name} touches or leaves the domain of {self.length}: move or shrink it")
            for other in self.obstacles[:i]:
                if (other.distance(rim) <= 0).any() or (
                    obstacle.distance(other.rim(min(self.length) / 100)) <= 0
                ).any():
                    raise UserError(f"the {obstacle.name} and the {other.name} touch: move or shrink one of them")

    def _walls(self, x: Array) -> Array:
        return np.asarray(np.maximum(-x, x - np.array(self.length)).max(axis=1))

    def distance(self, x: Array) -> Array:
        """Signed distance of points (N, 2) to the boundary, negative inside; corners outside count as sides do."""
        return np.asarray(np.maximum.reduce([self._walls(x), *(-o.distance(x) for o in self.obstacles)]))

    def boundary(self, x: Array) -> dict[str, NDArray[np.int64]]:
        """Nodes on each part of the boundary: left, right, bottom, top, then the obstacles by name."""
        (lx, ly), near = self.length, 1e-9 * max(self.length)
        parts = {"left": x[:, 0], "right": x[:, 0] - lx, "bottom": x[:, 1], "top": x[:, 1] - ly}
        parts |= {o.name: o.distance(x) for o in self.obstacles}
        return {name: np.flatnonzero(np.abs(d) < near) for name, d in parts.items()}


def triangulate(domain: Domain, size: float, fine: float | None = None, grade: float = 0.25) -> tuple[Array, Any]:
    """Triangles whose sides grow from `fine` at the obstacles to `size` far from them.

    Args:
        domain: What to fill; boundary nodes lie exactly on it.
        size: Side of a triangle far from obstacles.
        fine: Side at obstacles; None is `size`. Bars thinner than that are resolved at their own thickness.
        grade: Growth of the side per distance.
    Returns: Nodes (N, 2) and triangles (M, 3), counter-clockwise. The same arguments give the same mesh.
    Raises: UserError: the sizes are too coarse for the domain.
    Complexity: O(rounds N log N).
    """
    fine = size if fine is None else min(fine, size)
    if not 0 < fine <= size < min(domain.length):
        raise UserError(f"triangles of {size} m: a side between 0 and {min(domain.length)} m is accepted")

    def wanted(x: Array) -> Array:
        near = [_rim_size(o, fine) + grade * np.maximum(o.distance(x), 0) for o in domain.obstacles]
        return np.asarray(np.minimum.reduce([np.full(len(x), size), *near]))

    fixed = _boundary_nodes(domain, wanted, fine)
    inner = _relax(domain, wanted, fixed, _seedlings(domain, wanted, fixed))
    nodes = np.concatenate([fixed, inner])
    triangles = _triangles(domain, nodes, wanted)
    used = np.unique(triangles)
    rank = np.full(len(nodes), -1)
    rank[used] = np.arange(len(used))
    nodes, triangles = nodes[used], rank[triangles]
    worst = _quality(nodes, triangles).min()
    if worst < LEAST_QUALITY or len(used) < len(fixed):
        raise UserError(
            f"no good triangles of {size} m (at obstacles {fine} m) fill this domain (worst quality {worst:.2f} of 1):"
            " take smaller ones, or larger gaps between obstacles"
        )
    return nodes, triangles


def _rim_size(obstacle: Disk | Bar, fine: float) -> float:
    """Side of the triangles at an obstacle: no triangle may reach through a thin bar."""
    if isinstance(obstacle, Bar):
        return min(fine, *(h - lo for lo, h in zip(obstacle.low, obstacle.high, strict=True)))
    return min(fine, obstacle.radius)


def _side(a: tuple[float, float], b: tuple[float, float], size: float) -> Array:
    """Points from a to b, without b."""
    count = max(1, int(np.ceil(np.hypot(b[0] - a[0], b[1] - a[1]) / size - 1e-9)))
    return np.linspace(a, b, count, endpoint=False)


def _boundary_nodes(domain: Domain, wanted: Any, fine: float) -> Array:
    lx, ly = domain.length
    corners = [(0.0, 0.0), (lx, 0.0), (lx, ly), (0.0, ly)]
    parts = []
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
        # Equal shares of the integral of 1 / size make steps as long as wanted.
        s = np.linspace(0, 1, 2001)[:, None]
        path = np.array(a) * (1 - s) + np.array(b) * s
        density = 1 / wanted(path)
        total = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
        count = max(1, round(total[-1] * np.hypot(b[0] - a[0], b[1] - a[1]) / 2000))
        at = np.interp(np.arange(count) / count, total / total[-1], s[:, 0])[:, None]
        parts.append(np.array(a) * (1 - at) + np.array(b) * at)
    return np.concatenate([*parts, *(o.rim(_rim_size(o, fine)) for o in domain.obstacles)])


def _seedlings(domain: Domain, wanted: Any, fixed: Array) -> Array:
    """First interior nodes: a hexagonal lattice for each size, each used where that size is wanted."""
    from scipy.spatial import cKDTree

    lx, ly = domain.length
    probe = np.stack(np.meshgrid(np.linspace(0, lx, 400), np.linspace(0, ly, 400)), axis=-1).reshape(-1, 2)
    least = wanted(np.concatenate([fixed, probe])).min()
    largest = wanted(probe).max()
    levels = least * 1.3 ** np.arange(int(np.ceil(np.log(largest / least) / np.log(1.3))) + 1)
    found = np.empty((0, 2))
    tree = cKDTree(fixed)
    for low in levels:
        x = np.arange(low / 2, lx, low)
        y = np.arange(low / 2, ly, low * np.sqrt(3) / 2)
        grid = np.stack(np.meshgrid(x, y), axis=-1)
        grid[1::2, :, 0] += low / 2
        points = grid.reshape(-1, 2)
        size = wanted(points)
        points = points[(size >= low * 0.999) & (size < low * 1.3) & (domain.distance(points) < -0.4 * size)]
        points = points[tree.query(points)[0] > 0.7 * low] if len(points) else points
        if len(points) and len(found):
            points = points[cKDTree(found).query(points)[0] > 0.8 * low]
        found = np.concatenate([found, points])
    return found


def _relax(domain: Domain, wanted: Any, fixed: Array, inner: Array) -> Array:
    """Lets springs along the edges push the interior nodes until their lengths are as wanted."""
    from scipy.spatial import Delaunay

    nodes = np.concatenate([fixed, inner])
    n = len(fixed)
    triangulated = np.full_like(nodes, np.inf)
    edges = np.empty((0, 2), dtype=np.int64)
    for _ in range(ROUNDS if len(inner) else 0):
        size = wanted(nodes)
        if (np.hypot(*(nodes - triangulated).T) > 0.1 * size).any():
            triangulated = nodes.copy()
            found = Delaunay(nodes).simplices
            found = found[domain.distance(nodes[found].mean(axis=1)) < -1e-3 * size[found].min(axis=1)]
            pairs = np.sort(np.concatenate([found[:, [0, 1]], found[:, [1, 2]], found[:, [2, 0]]]), axis=1)
            edges = np.unique(pairs, axis=0)
        along = nodes[edges[:, 0]] - nodes[edges[:, 1]]
        length = np.hypot(*along.T)
        target = wanted((nodes[edges[:, 0]] + nodes[edges[:, 1]]) / 2)
        target *= STRETCH * np.sqrt((length**2).sum() / (target**2).sum())
        force = np.maximum(target - length, 0)[:, None] * along / length[:, None]
        move = np.zeros_like(nodes)
        for k in range(2):
            move[:, k] = np.bincount(edges[:, 0], force[:, k], len(nodes))
            move[:, k] -= np.bincount(edges[:, 1], force[:, k], len(nodes))
        step = 0.2 * move[n:]
        nodes[n:] += step
        outside = domain.distance(nodes[n:]) > -0.45 * size[n:]
        # A node that comes too close to the boundary stays where it was.
        nodes[n:][outside] -= step[outside]
        if np.hypot(*step[~outside].T).max(initial=0) < 2e-3 * size.min():
            break
    return nodes[n:]


def _triangles(domain: Domain, nodes: Array, wanted: Any) -> NDArray[np.int64]:
    """Delaunay triangles inside the domain, counter-clockwise."""
    from scipy.spatial import Delaunay

    found = Delaunay(nodes).simplices.astype(np.int64)
    middle = nodes[found].mean(axis=1)
    found = found[(domain.distance(middle) < 0) & (_quality(nodes, found) > 1e-3)]
    a, b, c = nodes[found].transpose(1, 0, 2)
    turn = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    found[turn < 0] = found[turn < 0][:, ::-1]
    return np.asarray(found, np.int64)


def _quality(nodes: Array, triangles: NDArray[np.int64]) -> Array:
    a, b, c = nodes[triangles].transpose(1, 0, 2)
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    sides = sum(((p - q) ** 2).sum(axis=1) for p, q in ((a, b), (b, c), (c, a)))
    return np.asarray(4 * np.sqrt(3) * area / sides)
