"""Drag, lift and shedding frequency of a cylinder from velocities and pressures at the vertices of a mesh.

Shapes: T frames, N vertices, M triangles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.apps.physics.equations.channel import Wake, wake

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Rim:
    """The sides of triangles that lie on an obstacle.

    Args:
        ends: (E, 2) vertices of each side. corners: (E, 3) of its triangle.
        normal: (E, 2) out of the obstacle, as long as the side. slope: (E, 3, 2) gradient of each corner's hat.
    """

    ends: Index
    corners: Index
    normal: Array
    slope: Array

    @classmethod
    def of(cls, nodes: Array, triangles: Index, rim: Index, center: Array) -> Rim:
        """The rim of an obstacle whose vertices are `rim`."""
        on = np.isin(triangles, rim)
        chosen = triangles[on.sum(axis=1) == 2]
        ends = chosen[np.isin(chosen, rim)].reshape(-1, 2)
        a, b = nodes[ends[:, 0]], nodes[ends[:, 1]]
        normal = np.stack([(b - a)[:, 1], -(b - a)[:, 0]], axis=1)
        inward = ((a + b) / 2 - center) * normal
        normal *= np.sign(inward.sum(axis=1))[:, None]
        p = nodes[chosen]
        edges = p[:, [2, 0, 1]] - p[:, [1, 2, 0]]
        twice = (p[:, 1] - p[:, 0])[:, 0] * (p[:, 2] - p[:, 0])[:, 1]
        twice -= (p[:, 1] - p[:, 0])[:, 1] * (p[:, 2] - p[:, 0])[:, 0]
        slope = np.stack([-edges[..., 1], edges[..., 0]], axis=-1) / twice[:, None, None]
        return cls(ends, chosen, normal, slope)

    def force(self, u: Array, p: Array, viscosity: float, density: float) -> Array:
        """Force of the fluid on the obstacle per depth (T, 2).

        Args:
            u: (T, N, 2). p: (T, N).
        """
        pressure = p[:, self.ends].mean(axis=2)
        gradient = np.einsum("tekc,ekd->tecd", u[:, self.corners], self.slope)
        stress = density * viscosity * (gradient + gradient.swapaxes(-1, -2))
        return np.asarray(np.einsum("tecd,ed->tc", stress, self.normal) - np.einsum("te,ed->td", pressure, self.normal))


def shedding(force: Array, speed: float, across: float, density: float, dt: float) -> Wake:
    """Drag, lift and frequency of the forces (T, 2) of frames dt apart."""
    coefficient = 2 * force / (density * speed**2 * across)
    return wake(coefficient[:, 0], coefficient[:, 1], dt)
