"""A field that is known everywhere: any place and time, derivatives, integrals, fluxes, an estimate of its error.

Shapes: n nodes, T times, C components, K members, Q points, S times asked for, d axes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from farfield.apps.physics.case import Quantity
from farfield.apps.physics.space import PIECE, SpaceMap, from_state, look_up
from farfield.apps.physics.times import TimeMap
from farfield.apps.physics.trust import LEAST
from farfield.apps.training import UserError
from farfield.apps.training.atomic import atomic_file
from farfield.core_ops.errors import DomainError, ShapeError

FORMAT, VERSION = "farfield-field", 1
# Entries of a table of all time cells; a larger one is made cell by cell, when it is asked for.
TABLE = 2**27
# Places where a line between two points of a curve is looked at, for each step of a mean distance between nodes.
LOOKS = 4


class Curves:
    """Values at nodes and times as tables in which every query finds its few coefficients.

    Args:
        space, time: The maps. values: (T, n, F), float32 or float64.
    """

    def __init__(self, space: SpaceMap, time: TimeMap, values: Tensor) -> None:
        self.space, self.time = space, time
        # What float32 can hold is spent on how values differ, not on their mean.
        self.offset = values.mean((0, 1), keepdim=True) if values.dtype == torch.float32 else values.new_zeros(1, 1, 1)
        space_wise = space.coefficients(values - self.offset)
        self.offset = self.offset[0, 0]
        fit = time.fit.to(values)
        self.table = (fit @ space_wise.flatten(1)).reshape(len(fit), *space_wise.shape[1:])
        order, cells = time.spline.order, time.spline.cells
        self._all: Tensor | None = None
        if cells * (order + 1) * self.table[0].numel() <= TABLE:
            self._all = torch.cat([self._of_cell(c) for c in range(cells)])

    def _of_cell(self, cell: int) -> Tensor:
        """Coefficients (m, (r + 1) F) of one time cell."""
        r = self.time.spline.order
        return self.table[cell * r : cell * r + r + 1].movedim(0, 1).flatten(1)

    def at(self, x: Tensor, t: Tensor, derivative: Sequence[int] | None, time_derivative: int) -> Tensor:
        """(Q, F) at points (Q, d) and times (Q,) or (1,)."""
        found = []
        order, width = self.time.spline.order, self.table.shape[-1]
        for k in range(0, len(x), PIECE):
            now = t if len(t) == 1 else t[k : k + PIECE]
            first, weights = self.time.spline.stencil(now, time_derivative, self.table.dtype)
            rows = torch.unflatten(self._look_up(first // order, x[k : k + PIECE], derivative), 1, (order + 1, width))
            found.append((weights[:, None].expand(len(rows), 1, -1) @ rows)[:, 0])
        out = torch.cat(found) if found else self.table.new_zeros(0, width)
        return out if time_derivative or any(derivative or ()) else out.add_(self.offset)

    def _look_up(self, cell: Tensor, x: Tensor, derivative: Sequence[int] | None) -> Tensor:
        """The r + 1 coefficients in time of every component at points, (Q, (r + 1) F)."""
        if self._all is not None:
            return look_up(self._all, *self.space.stencil(x, derivative, cell * self.table.shape[1], self.table.dtype))
        at, weights = self.space.stencil(x, derivative, dtype=self.table.dtype)
        cell = cell.expand(len(at))
        out = self.table.new_empty(len(at), (self.time.spline.order + 1) * self.table.shape[-1])
        for c in sorted(set(cell.tolist())):
            mine = cell == c
            out[mine] = look_up(self._of_cell(c), at[mine], weights[mine])
        return out

    def frames(self, x: Tensor, t: Tensor, derivative: Sequence[int] | None, time_derivative: int) -> Tensor:
        """(S, Q, F) at points (Q, d), at every one of the times (S,)."""
        rows = self.table.movedim(0, 1).flatten(1)
        stencils = (self.space.stencil(x[k : k + PIECE], derivative) for k in range(0, len(x), PIECE))
        looked = [look_up(rows, *s) for s in stencils]
        here = torch.cat(looked) if looked else rows[:0]
        first, weights = self.time.spline.stencil(t, time_derivative)
        matrix = rows.new_zeros(len(t), len(self.table))
        matrix.scatter_(1, first[:, None] + torch.arange(weights.shape[1]), weights.to(rows))
        out = torch.einsum("st,qtf->sqf", matrix, here.reshape(len(x), len(self.table), -1))
        return out if time_derivative or any(derivative or ()) else out + self.offset


class Field:
    """A field over a domain and a stretch of time.

        u = field(x, t)                                   # (Q, C) at points (Q, d) and times (Q,), in any order
        du_dx = field(x, t, derivative=(1, 0))
        sure = field.trust(x, t)

    Args:
        space: Which places values belong to. time: Which times, as a map or as the times themselves.
        values: (T, n, C), or (K, T, n, C) of an ensemble's members; float32 or float64, on the CPU.
        names: Of the components. units: Of the components, of "x" and of "t".
        factor: (C,), turns the members' spread into an error; None is 1. See `trust.calibrate`.
        tolerance: (C,), the largest error that is to be trusted.
        static: Parameters of the run, for the files.
    Raises: ShapeError: values of another shape; DomainError: a value is no number.
    """

    def __init__(
        self,
        space: SpaceMap,
        time: TimeMap | Tensor,
        values: Tensor,
        names: Sequence[str],
        units: Mapping[str, str | None] | None = None,
        factor: Tensor | None = None,
        tolerance: Tensor | None = None,
        static: Mapping[str, Quantity] | None = None,
    ) -> None:
        self.space = space
        self.time = time if isinstance(time, TimeMap) else TimeMap.through(time)
        self.names, self.units, self.static = tuple(names), dict(units or {}), dict(static or {})
        members = values.detach().cpu() if values.dim() == 4 else values.detach().cpu()[None]
        wanted = (len(self.time.nodes), len(space.nodes), len(self.names))
        if members.dim() != 4 or tuple(members.shape[1:]) != wanted:
            raise ShapeError(f"Field: values of shape {tuple(values.shape)} came; needed: {wanted}, or (K, ...) of it.")
        if not bool(members.isfinite().all()):
            raise DomainError(
                f"Field: {int((~members.isfinite()).sum())} values are NaN or infinite; fill or drop them."
            )
        self.members = members
        self.factor = torch.ones(len(self.names), dtype=torch.float64) if factor is None else factor.double()
        self.tolerance = None if tolerance is None else tolerance.double()
        self._mean: Curves | None = None
        self._every: Curves | None = None

    @property
    def values(self) -> Tensor:
        """(T, n, C): the members' mean."""
        return self.members.mean(0)

    def __call__(
        self, x: ArrayLike | Tensor, t: ArrayLike | Tensor, derivative: Sequence[int] | None = None,
        time_derivative: int = 0,
    ) -> Tensor:  # fmt: skip
        """The field, or a derivative of it, at points and times in any order.

        Args:
            x: (Q, d). t: A time for each (Q,), or one for all.
            derivative: Order along each axis, 2 at most. time_derivative: 0, 1 or 2.
        Returns: (Q, C): the mean of the members.
        Raises: DomainError: a point outside of the domain or inside an obstacle, a time outside, NaN.
        Complexity: O((r + 1)^(d + 1)) a query on a rectangle, O(9 (r + 1)) on triangles.
        """
        if self._mean is None:
            self._mean = Curves(self.space, self.time, self.values)
        points = self._points(x)
        return self._mean.at(points, self._times(t, len(points)), derivative, time_derivative)

    def frames(
        self, x: ArrayLike | Tensor, t: ArrayLike | Tensor, derivative: Sequence[int] | None = None,
        time_derivative: int = 0,
    ) -> Tensor:  # fmt: skip
        """The same at all points at every one of the times: (S, Q, C)."""
        if self._mean is None:
            self._mean = Curves(self.space, self.time, self.values)
        return self._mean.frames(self._points(x), self._times(t), derivative, time_derivative)

    @property
    def estimates(self) -> bool:
        """Whether there are members whose spread says how large the error is."""
        return len(self.members) > 1

    def error(self, x: ArrayLike | Tensor, t: ArrayLike | Tensor) -> Tensor:
        """How far the field may be off, (Q, C): the standard deviation of the members times `factor`.

        Raises: as of a call; ShapeError: there is one member alone.
        """
        if not self.estimates:
            raise ShapeError("Field.error: one member alone has no spread; train two or more (model.members=3).")
        if self._every is None:
            self._every = Curves(self.space, self.time, self.members.movedim(0, 2).flatten(2))
        points = self._points(x)
        found = self._every.at(points, self._times(t, len(points)), None, 0)
        spread = found.reshape(len(found), len(self.members), -1).double().std(1)
        least = LEAST * self.members.double().std(0).mean((0, 1))
        return torch.maximum(spread, least) * self.factor

    def trust(self, x: ArrayLike | Tensor, t: ArrayLike | Tensor) -> Tensor:
        """Whether the error of every component is within `tolerance`, (Q,).

        Raises: as of `error`; ShapeError: no tolerance was given.
        """
        if self.tolerance is None:
            raise ShapeError("Field.trust: no tolerance was given; `train` sets one from the data.")
        return (self.error(x, t) <= self.tolerance).all(1)

    def integral(self, t: ArrayLike | Tensor) -> Tensor:
        """The integral over the domain at times (S,): (S, C)."""
        weights = self.space.integral()
        return self.time.matrix(self._times(t)) @ (weights @ self.values.double())

    def flux(
        self, curve: ArrayLike | Tensor, t: ArrayLike | Tensor, of: str | Sequence[str], coefficient: float = 1.0
    ) -> Tensor:
        """What passes through a curve of straight pieces from left to right of its direction, at times (S,): (S,).

        Out of a closed curve that goes round counter-clockwise.

        Args:
            curve: Its points (P, 2).
            of: One component c: the diffusive flux, -coefficient times the integral of dc/dn. Two: those of a velocity,
                coefficient times the integral of its normal part.
        Raises: DomainError: the curve leaves the domain. ShapeError: not in a plane; no such component.
        """
        points = self._points(curve)
        chosen = [of] if isinstance(of, str) else list(of)
        if points.shape[1] != 2 or len(chosen) > 2 or any(name not in self.names for name in chosen):
            raise ShapeError(f"Field.flux: of={of}; needed: one or two of {', '.join(self.names)}, in a plane.")
        index = [self.names.index(name) for name in chosen]
        x, weight, normal = along_curve(points, self._spacing())
        if len(index) == 1:
            parts = [-self.frames(x, t, d)[..., index[0]] for d in ((1, 0), (0, 1))]
        else:
            found = self.frames(x, t)
            parts = [found[..., k] for k in index]
        total = sum(part.double() * normal[:, k] for k, part in enumerate(parts))
        return coefficient * torch.as_tensor(total) @ weight

    def _spacing(self) -> float:
        box = self.space.nodes.amax(0) - self.space.nodes.amin(0)
        return float((box.prod() / len(self.space.nodes)) ** (1 / len(box)))

    def _points(self, x: ArrayLike | Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(x) if not isinstance(x, Tensor) else x).double()

    def _times(self, t: ArrayLike | Tensor, count: int | None = None) -> Tensor:
        """Times as (S,), looked at.

        Raises: ShapeError, DomainError.
        """
        times = torch.as_tensor(np.asarray(t) if not isinstance(t, Tensor) else t).double().reshape(-1).cpu()
        if count is not None and len(times) not in (1, count):
            raise ShapeError(f"{len(times)} times came for {count} points; needed: one for all, or one each.")
        start, end = self.time.start, self.time.end
        # The end is a sum of steps: hundreds of roundings.
        slack = 1e-12 * max(abs(start), abs(end))
        inside = (times >= start - slack) & (times <= end + slack)
        if not bool(inside.all()):
            first = int((~inside).nonzero()[0])
            raise DomainError(
                f"{int((~inside).sum())} of {len(times)} times lie outside of [{start:g}, {end:g}], the first, number"
                f" {first}, is {float(times[first]):g}; drop them, or roll the field out for longer"
            )
        return times.clamp(start, end)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, in one step."""
        from safetensors.torch import save_file

        space, about_space = self.space.state()
        time, about_time = self.time.state()
        tensors = {f"space.{k}": v for k, v in space.items()} | {f"time.{k}": v for k, v in time.items()}
        tensors |= {"members": self.members, "factor": self.factor}
        tensors |= {} if self.tolerance is None else {"tolerance": self.tolerance}
        about = {
            "space": about_space,
            "time": about_time,
            "names": self.names,
            "units": self.units,
            "static": {name: [q.value, q.units] for name, q in self.static.items()},
        }
        head = {"format": FORMAT, "version": str(VERSION), "about": json.dumps(about)}
        with atomic_file(path) as temporary:
            save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary, metadata=head)

    @classmethod
    def load(cls, path: str | Path) -> Field:
        """A field from the file that `save` wrote.

        Raises: UserError: it is no such file, or is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                head = file.metadata() or {}
                if head.get("format") != FORMAT or int(head["version"]) > VERSION:
                    raise UserError(f"{path}: no field of this farfield (format {head.get('format')}); update farfield")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read as a field ({error}); write or copy it again") from error
        about: dict[str, Any] = json.loads(head["about"])

        def part(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}

        return cls(
            from_state(part("space"), about["space"]),
            TimeMap.from_state(part("time"), about["time"]),
            tensors["members"],
            about["names"],
            about["units"],
            factor=tensors["factor"],
            tolerance=tensors.get("tolerance"),
            static={name: Quantity(value, units) for name, (value, units) in about["static"].items()},
        )


def along_curve(points: Tensor, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """Places on a curve of straight pieces, what each weighs in an integral along it, and the normals to its right."""
    at, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(4))
    places, weights, normals = [], [], []
    for a, b in pairwise(points):
        along = b - a
        length = float(along.norm())
        if length == 0:
            continue
        count = max(1, int(np.ceil(LOOKS * length / step)))
        s = (torch.arange(count)[:, None] + (at + 1) / 2).flatten() / count
        places.append(a + s[:, None] * along)
        weights.append((weight / 2).repeat(count) * (length / count))
        normals.append(torch.stack([along[1], -along[0]]).expand(len(s), 2) / length)
    if not places:
        raise ShapeError(f"a curve of {len(points)} points came; needed: two different ones at least.")
    return torch.cat(places), torch.cat(weights), torch.cat(normals)
