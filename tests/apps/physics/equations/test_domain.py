"""Triangles fill the domain and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.physics.equations.domain import Bar, Disk, Domain, triangulate
from farfield.apps.physics.mesh import edges, measures, pieces, rim
from farfield.apps.training import UserError

HOLED = Domain((1.0, 1.0), (Disk("hole", (0.3, 0.65), 0.15), Bar("wall", (0.6, 0.2), (0.62, 0.8))))


def test_triangles_are_good_and_fill_the_domain() -> None:
    nodes, triangles = triangulate(HOLED, 0.08, 0.04)
    sizes = measures(nodes, {"triangle": triangles})["triangle"]
    sides = len(HOLED.boundary(nodes)["hole"])
    polygon = sides / 2 * 0.15**2 * np.sin(2 * np.pi / sides)
    assert sizes.min() > 0
    assert sizes.sum() == pytest.approx(1 - polygon - 0.02 * 0.6, rel=1e-12)
    assert pieces(len(nodes), edges({"triangle": triangles})).max() == 0
    on = np.unique(np.concatenate(list(HOLED.boundary(nodes).values())))
    assert rim({"triangle": triangles}).tolist() == on.tolist()


def test_no_edge_crosses_the_wall() -> None:
    nodes, triangles = triangulate(HOLED, 0.1, 0.05)
    a, b = nodes[edges({"triangle": triangles})].transpose(1, 0, 2)
    for share in np.linspace(0, 1, 101):
        at = a + share * (b - a)
        inside = (at[:, 0] > 0.6 + 1e-9) & (at[:, 0] < 0.62 - 1e-9) & (at[:, 1] > 0.2 + 1e-9) & (at[:, 1] < 0.8 - 1e-9)
        assert not inside.any()


def test_the_same_arguments_give_the_same_mesh() -> None:
    one, two = triangulate(HOLED, 0.1), triangulate(HOLED, 0.1)
    assert (one[0] == two[0]).all()
    assert (one[1] == two[1]).all()


@pytest.mark.parametrize(
    "obstacles",
    [
        (Disk("hole", (0.1, 0.5), 0.2),),
        (Disk("hole", (2.0, 0.5), 0.2),),
        (Disk("hole", (0.5, 0.5), 0.2), Bar("wall", (0.4, 0.4), (0.9, 0.6))),
        (Disk("hole", (0.5, 0.5), 0.05), Bar("wall", (0.3, 0.3), (0.7, 0.7))),
    ],
)
def test_obstacles_that_touch_are_refused(obstacles: tuple[Disk | Bar, ...]) -> None:
    with pytest.raises(UserError, match="touch"):
        Domain((1.0, 1.0), obstacles)


def test_a_size_beyond_the_domain_is_refused() -> None:
    with pytest.raises(UserError, match="a side between"):
        triangulate(HOLED, 1.5)
