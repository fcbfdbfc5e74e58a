"""Runs as arrays: what a network learns from and is judged by.

Shapes: R runs, T frames, N nodes of the data, C components of all fields in a row, I of the inputs, S parameters,
Z signals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from farfield.apps.physics.case import Array, Case, Index, problems
from farfield.apps.physics.mesh import Cells
from farfield.apps.training import UserError

SPLITS = ("train", "valid", "test", "extrapolate")
# Shares of valid and test where the data name no splits.
SHARES = (0.15, 0.15)
# Largest relative difference of two runs' times, and of values that are called unchanging.
SAME = 1e-6


@dataclass(frozen=True)
class Runs:
    """Whole runs on one mesh at the same times, in memory.

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
    ) -> Runs:
        """Load cases.

        Args:
            cases: One or more, on one mesh, with the same frames.
            fields: To be predicted; None is all but the inputs.
            static: Parameters of a run that the network is given; None is those that differ between runs.
            inputs: Fields known beforehand at all times, such as a forcing.
            dirichlet: Parts of the boundary with values known beforehand: ["left", "u:cylinder"]; None takes those
                whose values never change in any run, [] none.
            seed: Draws the splits of runs that have none: by run, never by frame.
            like: Runs whose fields, parameters, inputs and known boundaries these must have; the four are then not
                read.
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
        _same_meshes(cases)
        _same_times(cases)
        values, inward = _stacked(cases, names), _stacked(cases, list(inputs))
        chosen = _static_names(cases) if static is None else tuple(static)
        sizes = tuple((name, first.fields[name].components) for name in names)
        signal_names = tuple(first.signals)
        parts = _unchanging(first, values, sizes) if dirichlet is None else tuple(dirichlet)
        units = {n: first.fields[n].units for n in (*names, *inputs)} | dict(first.units)
        units |= {n: first.static[n].units for n in chosen if n in first.static}
        if like is not None and sizes != like.fields:
            raise UserError(f"{first.name}: its fields are {sizes}, the network's {like.fields}")
        return cls(
            nodes=first.nodes,
            cells=dict(first.cells),
            period=first.period,
            boundary=dict(first.boundary),
            held=_held(first, parts, sizes),
            times=first.times - first.times[0],
            values=values,
            inputs=inward,
            static=torch.tensor([[_parameter(c, n) for n in chosen] for c in cases], dtype=torch.float64).reshape(
                len(cases), len(chosen)
            ),
            signals=torch.tensor(np.array([[_signal(c, n) for n in signal_names] for c in cases]), dtype=torch.float32)
            .reshape(len(cases), len(signal_names), len(first.times))
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
        )

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


def _same_meshes(cases: Sequence[Case]) -> None:
    first = cases[0]
    for case in cases[1:]:
        if case.nodes.shape != first.nodes.shape or not np.allclose(case.nodes, first.nodes, rtol=0, atol=1e-9):
            raise UserError(
                f"{case.name}: its mesh ({len(case.nodes):,} nodes) is not that of {first.name}"
                f" ({len(first.nodes):,} nodes); one network learns from runs on one mesh: interpolate them to one (in"
                " ParaView: Resample With Dataset), or train on those that share one"
            )


def _same_times(cases: Sequence[Case]) -> None:
    first = cases[0].times - cases[0].times[0]
    if len(first) < 2:
        raise UserError(f"{cases[0].name}: one frame; at least two are needed to learn how a field changes")
    for case in cases[1:]:
        times = case.times - case.times[0]
        if len(times) != len(first) or np.abs(times - first).max() > SAME * first[-1]:
            raise UserError(
                f"{case.name}: its {len(times)} frames until {times[-1]:g} are not at the times of {cases[0].name}"
                f" ({len(first)} frames until {first[-1]:g}); write all runs at the same times"
            )


def _stacked(cases: Sequence[Case], names: list[str]) -> Tensor:
    """(R, T, N, all components), float32."""
    first = cases[0]
    shape = (len(cases), len(first.times), len(first.nodes))
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
    for r, case in enumerate(cases):
        at = 0
        for name in names:
            count = first.fields[name].components
            values = case.read(name)
            if not np.isfinite(values).all():
                bad = np.flatnonzero(~np.isfinite(values).all(axis=(0, 2)))
                raise UserError(
                    f"{case.name}: {name} is no number at {len(bad):,} of {len(first.nodes):,} nodes (the first:"
                    f" {bad[0]}); missing=drop leaves such nodes out"
                )
            found[r, :, :, at : at + count] = torch.from_numpy(values).float()
            at += count
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


def _signal(case: Case, name: str) -> Array:
    if name not in case.signals:
        raise UserError(f"{case.name}: it lacks the signal {name!r} that other runs have")
    return case.signals[name][0]


def _unchanging(case: Case, values: Tensor, sizes: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """part or field:part where no value changes in any run: boundary conditions, not outcomes."""
    found = []
    for part, index in case.boundary.items():
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


def _held(case: Case, parts: Sequence[str], sizes: Sequence[tuple[str, int]]) -> NDArray[np.bool_]:
    """(N, C): which values are known beforehand."""
    names = [name for name, count in sizes for _ in range(count)]
    held = np.zeros((len(case.nodes), len(names)), bool)
    for word in parts:
        field, colon, part = word.rpartition(":")
        if part not in case.boundary:
            raise UserError(
                f"dirichlet=[{word}]: {case.name} has no part {part!r} of its boundary; it has"
                f" {', '.join(case.boundary) or 'none (boundary= takes a CSV file that names them)'}"
            )
        if colon and field not in names:
            raise UserError(f"dirichlet=[{word}]: {field!r} is none of the fields {', '.join(dict(sizes))}")
        for c, name in enumerate(names):
            if not colon or name == field:
                held[case.boundary[part], c] = True
    return held


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
