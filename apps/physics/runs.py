"""Runs as arrays: what a network learns from and is judged by.

Shapes: R runs, T frames, N nodes of the data, C components of all fields in a row, I of the inputs, S parameters,
Z signals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from farfield.apps.physics.case import Array, Case, Index, problems
from farfield.apps.physics.mesh import Cells
from farfield.apps.physics.resample import Carries, Carry, Mesh, Own, in_time, same_nodes, same_times, shared_times
from farfield.apps.training import UserError

SPLITS = ("train", "valid", "test", "extrapolate")
# Shares of valid and test where the data name no splits.
SHARES = (0.15, 0.15)
# Largest relative difference of values that are called unchanging.
SAME = 1e-6


@dataclass(frozen=True)
class Runs:
    """Whole runs on one mesh at the same times, in memory; those of other meshes or times were carried there.

    Args:
        nodes: (N, D) float64. cells: Of the mesh. period: Length of each axis that wraps around, else None.
        boundary: Nodes by part. held: (N, C), where values are known beforehand.
        times: (T,) float64, the first is 0.
        values: (R, T, N, C) float32. inputs: (R, T, N, I). static: (R, S). signals: (R, T, Z).
        fields: (name, components) in the order of the components.
        input_fields: The same of the inputs. static_names, signal_names: Of the other last dimensions.
        units: Of everything by name, "x" and "t" too.
        split: Of each run. labels: Name of each run, for messages.
        dirichlet: The parts whose values are known, as `Runs.of` takes them.
        parameters: (R,) of every parameter that all runs have, told to the network or not.
        equation: What was simulated, where the data say so.
        own: Of each run on a mesh of its own, what it said there; empty where there are none.
        notes: What was carried, for people.
    """

    nodes: Array
    cells: Cells
    period: tuple[float | None, ...]
    boundary: dict[str, Index]
    held: np.ndarray
    times: Array
    values: Tensor
    inputs: Tensor
    static: Tensor
    signals: Tensor
    fields: tuple[tuple[str, int], ...]
    input_fields: tuple[tuple[str, int], ...]
    static_names: tuple[str, ...]
    signal_names: tuple[str, ...]
    units: dict[str, str | None]
    split: tuple[str, ...]
    labels: tuple[str, ...]
    dirichlet: tuple[str, ...]
    parameters: dict[str, Tensor]
    equation: str | None = None
    own: tuple[Own | None, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        cases: Sequence[Case],
        fields: Sequence[str] | None = None,
        static: Sequence[str] | None = None,
        inputs: Sequence[str] = (),
        dirichlet: Sequence[str] | None = None,
        *,
        seed: int = 0,
        like: Runs | None = None,
        times: Array | None = None,
    ) -> Runs:
        """Load cases.

        Args:
            cases: One or more of one domain. Where meshes differ, all are carried to the one with most nodes, or that
                of `like`; where times do, to those of the run with the longest steps, as far as all runs reach.
            fields: To be predicted; None is all but the inputs.
            static: Parameters of a run that the network is given; None is those that differ between runs.
            inputs: Fields known beforehand at all times, such as a forcing.
            dirichlet: Parts of the boundary with values known beforehand: ["left", "u:cylinder"]; None takes those
                whose values never change in any run, [] none.
            seed: Draws the splits of runs that have none: by run, never by frame.
            like: Runs whose mesh, fields, parameters, inputs and known boundaries these get; the four are then not
                read.
            times: Since the first frame, to which all are carried; None is as said.
        Raises: UserError: meshes, times, fields, parameters or parts do not fit.
        """
        if not cases:
            raise UserError("no run to learn from; data= takes a path or a pattern such as heat/*.h5")
        for case in cases:
            if wrong := problems(case):
                raise UserError(f"{case.name}: {wrong[0]}")
        if like is not None:
            fields, static = [name for name, _ in like.fields], like.static_names
            inputs, dirichlet = like.input_names, like.dirichlet
        first = cases[0]
        names = [n for n in first.fields if n not in inputs] if fields is None else list(fields)
        mesh: Mesh = max(cases, key=lambda case: len(case.nodes)) if like is None else like
        other = [not same_nodes(case, mesh) for case in cases]
        at = shared_times(cases) if times is None else times
        carries = Carries(mesh, mesh.name if isinstance(mesh, Case) else "that of the training")
        here = [carries.here(case) if away else None for case, away in zip(cases, other, strict=True)]
        values, inward = (_stacked(cases, wanted, here, len(mesh.nodes), at) for wanted in (names, list(inputs)))
        chosen = _static_names(cases) if static is None else tuple(static)
        sizes = tuple((name, first.fields[name].components) for name in names)
        signal_names = tuple(first.signals)
        parts = _unchanging(mesh.boundary, values, sizes) if dirichlet is None else tuple(dirichlet)
        units = {n: first.fields[n].units for n in (*names, *inputs)} | dict(first.units)
        units |= {n: first.static[n].units for n in chosen if n in first.static}
        if like is not None and sizes != like.fields:
            raise UserError(f"{first.name}: its fields are {sizes}, the network's {like.fields}")
        return cls(
            nodes=mesh.nodes,
            # Readers turn cells by views, which neither torch nor a file takes.
            cells={kind: np.ascontiguousarray(index) for kind, index in mesh.cells.items()},
            period=mesh.period,
            boundary=dict(mesh.boundary),
            held=_held(mesh, carries.name, parts, sizes),
            times=at,
            values=values,
            inputs=inward,
            static=torch.tensor([[_parameter(c, n) for n in chosen] for c in cases], dtype=torch.float64).reshape(
                len(cases), len(chosen)
            ),
            signals=torch.tensor(
                np.array([[_signal(c, n, at) for n in signal_names] for c in cases]), dtype=torch.float32
            )
            .reshape(len(cases), len(signal_names), len(at))
            .mT.contiguous(),
            fields=sizes,
            input_fields=tuple((name, first.fields[name].components) for name in inputs),
            static_names=chosen,
            signal_names=signal_names,
            units=units,
            split=_splits(cases, seed),
            labels=tuple(case.name for case in cases),
            dirichlet=parts,
            parameters={
                n: torch.tensor([c.static[n].value for c in cases])
                for n in first.static
                if all(n in c.static for c in cases)
            },
            equation=first.origin.get("equation"),
            own=tuple(
                _own(c, names, carries, parts, sizes, at) if away else None
                for c, away in zip(cases, other, strict=True)
            )
            if any(other)
            else (),
            notes=_notes(cases, other, carries.name, len(mesh.nodes), at),
        )

    def on_own(self, fields: Tensor) -> list[Tensor]:
        """Predictions (R, T, N, C) where each run was computed, (T, M, C) of each."""
        if not self.own:
            return list(fields)
        return [f if own is None else own.fields(f) for f, own in zip(fields, self.own, strict=True)]

    @property
    def truth(self) -> list[Tensor]:
        """What each run said where it was computed, (T, M, C) of each."""
        if not self.own:
            return list(self.values)
        return [v if own is None else own.values for v, own in zip(self.values, self.own, strict=True)]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the C components: u, or u_x and u_y where a field has two."""
        return tuple(n for name, count in self.fields for n in component_names(name, count))

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the fields known beforehand."""
        return tuple(name for name, _ in self.input_fields)

    def __len__(self) -> int:
        """R."""
        return len(self.split)

    def take(self, index: Sequence[int]) -> Runs:
        """Some of the runs."""
        at = torch.as_tensor(list(index), dtype=torch.int64)
        return replace(
            self,
            values=self.values[at],
            inputs=self.inputs[at],
            static=self.static[at],
            signals=self.signals[at],
            split=tuple(self.split[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
            own=tuple(self.own[i] for i in index) if self.own else (),
            parameters={n: v[at] for n, v in self.parameters.items()},
        )

    def part(self, split: str) -> Runs:
        """The runs of a split; none is an error.

        Raises: UserError: the split is unknown or empty.
        """
        if split not in SPLITS:
            raise UserError(f"split={split}: {', '.join(SPLITS)} are accepted")
        index = [i for i, s in enumerate(self.split) if s == split]
        if not index:
            raise UserError(f"no run is in the split {split}; there are {len(self)} runs: {', '.join(set(self.split))}")
        return self.take(index)

    def has(self, split: str) -> bool:
        """Whether a split has runs."""
        return split in self.split


def component_names(name: str, count: int) -> tuple[str, ...]:
    """u for one component, u_x, u_y (u_z) for two or three, u_0 .. for more."""
    if count == 1:
        return (name,)
    return tuple(f"{name}_{'xyz'[i] if count <= 3 else i}" for i in range(count))


def _notes(cases: Sequence[Case], other: Sequence[bool], name: str, count: int, times: Array) -> tuple[str, ...]:
    """What was carried, in words."""
    found = []
    if away := sum(other):
        found.append(f"{away} of {len(cases)} runs have meshes of their own: carried to the {count:,} nodes of {name}")
    late = [case for case in cases if not same_times(case.times - case.times[0], times)]
    if late:
        found.append(
            f"{len(late)} of {len(cases)} runs have times of their own ({late[0].name}: {len(late[0].times)} frames):"
            f" carried to {len(times)} frames until {times[-1]:g}"
        )
    return tuple(found)


def _own(
    case: Case, names: list[str], carries: Carries, parts: Sequence[str], sizes: Sequence[tuple[str, int]], times: Array
) -> Own:
    values = _stacked([case], names, [None], len(case.nodes), times)[0]
    return Own(values, torch.from_numpy(_held(case, case.name, parts, sizes)), carries.back(case))


def _stacked(cases: Sequence[Case], names: list[str], here: Sequence[Carry | None], count: int, times: Array) -> Tensor:
    """(R, T, N, all components), float32, carried to N = count nodes and to the times."""
    first = cases[0]
    shape = (len(cases), len(times), count)
    if not names:
        return torch.empty(*shape, 0)
    width = 0
    for name in names:
        for case in cases:
            if name not in case.fields:
                raise UserError(
                    f"{case.name} has no field {name!r}; it has {', '.join(case.fields) or 'none'}: choose fields that"
                    " all runs have, fields=[...]"
                )
            if case.fields[name].components != first.fields[name].components:
                raise UserError(f"{case.name}: {name} has {case.fields[name].components} components, elsewhere others")
        width += first.fields[name].components
    found = torch.empty(*shape, width)
    for r, (case, carry) in enumerate(zip(cases, here, strict=True)):
        moments = in_time(case, times)
        at = 0
        for name in names:
            components = first.fields[name].components
            values = case.read(name)
            if not np.isfinite(values).all():
                bad = np.flatnonzero(~np.isfinite(values).all(axis=(0, 2)))
                raise UserError(
                    f"{case.name}: {name} is no number at {len(bad):,} of {len(case.nodes):,} nodes (the first:"
                    f" {bad[0]}); missing=drop leaves such nodes out"
                )
            values = values if moments is None else np.tensordot(moments, values, 1)
            values = values if carry is None else carry(values)
            found[r, :, :, at : at + components] = torch.from_numpy(values).float()
            at += components
    return found


def _static_names(cases: Sequence[Case]) -> tuple[str, ...]:
    shared = [n for n in cases[0].static if all(n in c.static for c in cases)]
    return tuple(n for n in shared if len({c.static[n].value for c in cases}) > 1)


def _parameter(case: Case, name: str) -> float:
    if name not in case.static:
        raise UserError(
            f"{case.name}: the parameter {name!r} is not known; it has {', '.join(case.static) or 'none'}; give"
            " static=[...] that all runs have"
        )
    return case.static[name].value


def _signal(case: Case, name: str, times: Array) -> Array:
    if name not in case.signals:
        raise UserError(f"{case.name}: it lacks the signal {name!r} that other runs have")
    return np.interp(times, case.times - case.times[0], case.signals[name][0])


def _unchanging(boundary: Mapping[str, Index], values: Tensor, sizes: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """part or field:part where no value changes in any run: boundary conditions, not outcomes."""
    found = []
    for part, index in boundary.items():
        if not len(index):
            continue
        at, kept = 0, []
        for name, count in sizes:
            rim = values[:, :, torch.from_numpy(index), at : at + count]
            scale = float(values[..., at : at + count].abs().max()) or 1.0
            if float((rim - rim[:, :1]).abs().max()) <= SAME * scale:
                kept.append(name)
            at += count
        if len(kept) == len(sizes):
            found.append(part)
        else:
            found += [f"{name}:{part}" for name in kept]
    return tuple(found)


def _held(mesh: Mesh, label: str, parts: Sequence[str], sizes: Sequence[tuple[str, int]]) -> NDArray[np.bool_]:
    """(N, C): which values are known beforehand."""
    names = [name for name, count in sizes for _ in range(count)]
    held = np.zeros((len(mesh.nodes), len(names)), bool)
    for word in parts:
        field, colon, part = word.rpartition(":")
        if part not in mesh.boundary:
            raise UserError(
                f"dirichlet=[{word}]: {label} has no part {part!r} of its boundary; it has"
                f" {', '.join(mesh.boundary) or 'none (boundary= takes a CSV file that names them)'}"
            )
        if colon and field not in names:
            raise UserError(f"dirichlet=[{word}]: {field!r} is none of the fields {', '.join(dict(sizes))}")
        for c, name in enumerate(names):
            if not colon or name == field:
                held[mesh.boundary[part], c] = True
    return held


def held_parts(runs: Runs) -> list[str]:
    """Parts of the boundary where any field is held: on them all fields are told by their own nodes alone."""
    return [part for part in runs.boundary if part in {word.rpartition(":")[2] for word in runs.dirichlet}]


def held_nodes(
    boundary: dict[str, Tensor], count: int, parts: Sequence[str], sizes: Sequence[tuple[str, int]]
) -> Tensor:
    """(count, C): the same for other nodes, whose parts of the boundary are given."""
    names = [name for name, size in sizes for _ in range(size)]
    held = torch.zeros(count, len(names), dtype=torch.bool)
    for word in parts:
        field, colon, part = word.rpartition(":")
        for c, name in enumerate(names):
            if part in boundary and (not colon or name == field):
                held[boundary[part], c] = True
    return held


def _splits(cases: Sequence[Case], seed: int) -> tuple[str, ...]:
    given = [case.origin.get("split") for case in cases]
    if all(given):
        return tuple(str(s) for s in given)
    count = len(cases)
    order = np.random.default_rng([seed, 3]).permutation(count)
    valid, test = (int(np.floor(share * count + 0.5)) if count > 2 else 0 for share in SHARES)
    found = ["train"] * count
    for i in order[:valid]:
        found[i] = "valid"
    for i in order[valid : valid + test]:
        found[i] = "test"
    return tuple(found)
