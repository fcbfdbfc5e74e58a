"""Runs of a domain that looks the same mirrored, turned or shifted: each is seen in all those ways.

Shapes: R runs, T frames, N nodes of the data, n coarse nodes, C components, D axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from farfield.apps.physics.prepared import Prepared
from farfield.apps.physics.runs import Runs
from farfield.apps.training import UserError

SYMMETRIES = ("mirror", "turn", "shift")
# Nodes must meet this closely, in units of the domain's longest side.
MEET = 1e-6


class Motion(NamedTuple):
    """A way to look at a domain.

    Args:
        axes: The axis that each axis comes from. signs: 1 or -1 for each axis afterwards.
    """

    axes: tuple[int, ...]
    signs: tuple[int, ...]


def seen(
    prepared: Callable[[Runs], Prepared], runs: Runs, nodes: np.ndarray, held: Tensor, chosen: Sequence[str]
) -> Prepared:
    """Coarse runs, and what they are after all motions.

    Args:
        prepared: Makes coarse runs of runs. nodes: (n, D) coarse nodes. held: (n, C), where values are known.
        chosen: mirror (along each axis), turn (by right angles, where sides are as long), shift (by half the distance
            of coarse nodes, along axes that wrap around). Fields of one component are scalars, of D components vectors.
    Raises: UserError: the coarse nodes, or those with known values, are not the same afterwards.
    """
    parts = [prepared(shifted) for shifted in _shifted(runs, nodes, "shift" in chosen)]
    found = []
    for motion in motions(runs, chosen):
        place = places_after(nodes, runs, motion)
        order, _ = components_after(runs.fields, motion)
        if not torch.equal(held[place][:, order], held):
            raise UserError("trainer.symmetries: values are known beforehand on one side and not on the one opposite")
        for part in parts:
            states = moved(part.states, place, runs.fields, motion)
            found.append(replace(part, states=states, inputs=moved(part.inputs, place, runs.input_fields, motion)))
    return replace(
        found[0],
        states=torch.cat([part.states for part in found]),
        inputs=torch.cat([part.inputs for part in found]),
        signals=torch.cat([part.signals for part in found]),
        static=torch.cat([part.static for part in found]),
    )


def moved(values: Tensor, place: Tensor, fields: Sequence[tuple[str, int]], motion: Motion) -> Tensor:
    """Values (.., n, C) after a motion that takes nodes to `places_after`."""
    order, signs = components_after(fields, motion)
    return values[..., place.to(values.device), :][..., order] * signs.to(values)


def motions(runs: Runs, chosen: Sequence[str]) -> Iterator[Motion]:
    """All of them, the one that changes nothing first."""
    d = runs.nodes.shape[1]
    sides = [round(float(np.ptp(runs.nodes[:, k]) if p is None else p), 9) for k, p in enumerate(runs.period)]
    kinds = [(side, p is None) for side, p in zip(sides, runs.period, strict=True)]
    still = tuple(range(d))
    for axes in permutations(still) if "turn" in chosen else [still]:
        if any(kinds[k] != kinds[axes[k]] for k in range(d)):
            continue
        handed = float(np.linalg.det(np.eye(d)[list(axes)]))
        for signs in product((1, -1), repeat=d):
            turned = "turn" in chosen and handed * float(np.prod(signs)) > 0
            if "mirror" in chosen or turned or (axes == still and signs == (1,) * d):
                yield Motion(axes, signs)


def places_after(nodes: np.ndarray, runs: Runs, motion: Motion) -> Tensor:
    """(n,): which node's values stand at each node after a motion.

    Raises: UserError: there is none.
    """
    from scipy.spatial import cKDTree

    low = runs.nodes.min(axis=0)
    sides = np.array([np.ptp(runs.nodes[:, k]) if p is None else p for k, p in enumerate(runs.period)])
    unit = (nodes - low) / sides
    # Node x looks, along axis axes[k], at its own k-th place, or at the one opposite.
    from_ = np.empty_like(unit)
    for k, (axis, sign) in enumerate(zip(motion.axes, motion.signs, strict=True)):
        from_[:, axis] = unit[:, k] if sign > 0 else 1 - unit[:, k]
    around = np.array([p is not None for p in runs.period])
    unit, from_ = (np.where(around, (x + MEET) % 1.0, x + MEET) for x in (unit, from_))
    far, index = cKDTree(unit).query(from_)
    if far.max() > 3 * MEET or len(np.unique(index)) < len(nodes):
        raise UserError(
            f"trainer.symmetries: {int((far > 3 * MEET).sum())} of {len(nodes)} coarse nodes have none opposite; take"
            " model.adapt_space=false, or leave the symmetry out"
        )
    return torch.from_numpy(index)


def components_after(fields: Sequence[tuple[str, int]], motion: Motion) -> tuple[list[int], Tensor]:
    """Which component each component comes from, and its sign (C,)."""
    order: list[int] = []
    signs: list[float] = []
    for name, count in fields:
        first = len(order)
        if count == 1:
            order.append(first)
            signs.append(1.0)
        elif count == len(motion.axes):
            order += [first + axis for axis in motion.axes]
            signs += [float(s) for s in motion.signs]
        else:
            raise UserError(f"trainer.symmetries: {name} has {count} components; scalars and vectors are accepted")
    return order, torch.tensor(signs)


def _shifted(runs: Runs, nodes: np.ndarray, wanted: bool) -> Iterator[Runs]:
    """The runs, and those shifted by half the distance of coarse nodes, along axes that wrap around."""
    if not wanted:
        yield runs
        return
    shape = [len(np.unique(runs.nodes[:, k])) for k in range(runs.nodes.shape[1])]
    if int(np.prod(shape)) != len(runs.nodes) or not any(p is not None for p in runs.period):
        raise UserError("trainer.symmetries: shift needs a regular grid that wraps around")
    steps = []
    for k, p in enumerate(runs.period):
        coarse = len(np.unique(nodes[:, k].round(9)))
        half = max(1, round(shape[k] / coarse / 2))
        steps.append((0, half) if p is not None else (0,))
    for shift in product(*steps):
        dims = tuple(2 + k for k in range(len(shape)))
        values, inputs = (
            torch.unflatten(x, 2, shape).roll(shift, dims).flatten(2, 1 + len(shape))
            for x in (runs.values, runs.inputs)
        )
        yield replace(runs, values=values, inputs=inputs)
