"""One run of a simulation or measurement, wherever it came from.

Shapes: N nodes, D dimensions, T frames, C components of a field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from farfield.apps.physics.mesh import Cells, edges, oriented, pieces, seam_edges
from farfield.apps.training import UserError

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# Bytes of one look at a field that may be larger than memory.
CHUNK = 2**26


@dataclass(frozen=True)
class Field:
    """What a field is.

    Args:
        name: As in the file.
        units: As UDUNITS writes them ("m s-1", "1" for a pure number); None where nobody said.
        components: 1 for a scalar, D for a vector.
        long_name: For people.
    """

    name: str
    units: str | None
    components: int = 1
    long_name: str = ""


@dataclass(frozen=True)
class Quantity:
    """A number that holds for the whole run."""

    value: float
    units: str | None


Reader = Callable[[str, Index], Array]


@dataclass(frozen=True)
class Case:
    """One run: a mesh, times, fields that are read when asked for.

    Args:
        name: For messages: the file, or the folder and file.
        nodes: Positions (N, D).
        cells: Corners by kind of cell, (M, K), counter-clockwise; empty where the source has none.
        times: (T,), rising; one frame may stand alone.
        fields: By name.
        reader: reader(name, frames (F,)) gives (F, N, C).
        units: Of "x" (the nodes) and "t" (the times).
        period: Length of each axis that wraps around, None for one that ends; no cell crosses the seam.
        static: Parameters of the run, known beforehand.
        signals: Numbers that change with time and are known beforehand: (T,) and their units.
        results: What the run found out: not an input.
        history: The same, frame by frame: (T,) and its units.
        boundary: Nodes by name of the part of the boundary.
        origin: Calendar and date of the first frame, simulator, settings: whatever describes the source.
        notes: What was changed while reading, for people.
    """

    name: str
    nodes: Array
    cells: Cells
    times: Array
    fields: Mapping[str, Field]
    reader: Reader
    units: Mapping[str, str | None]
    period: tuple[float | None, ...] = ()
    static: Mapping[str, Quantity] = field(default_factory=dict)
    signals: Mapping[str, tuple[Array, str | None]] = field(default_factory=dict)
    results: Mapping[str, Quantity] = field(default_factory=dict)
    history: Mapping[str, tuple[Array, str | None]] = field(default_factory=dict)
    boundary: Mapping[str, Index] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Looks at shapes; a reader that gets them wrong is our own mistake."""
        if self.nodes.ndim != 2 or self.times.ndim != 1:
            raise ValueError(f"nodes {self.nodes.shape} and times {self.times.shape} of {self.name}")
        if not self.period:
            object.__setattr__(self, "period", (None,) * self.nodes.shape[1])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        """Frames start to stop of a field, (F, N, C); only they are loaded.

        Raises: UserError: no such field; a value is missing.
        """
        if name not in self.fields:
            raise UserError(
                f"{self.name} has no field {name!r}; it has {', '.join(self.fields) or 'none'} (farfield physics"
                f" describe data={self.name} lists them)"
            )
        frames = np.arange(len(self.times), dtype=np.int64)[start:stop]
        return self.reader(name, frames)

    def chunks(self, name: str, limit: int = CHUNK) -> Iterator[tuple[int, Array]]:
        """All frames of a field in order, as many at once as fit into limit bytes: (first frame, (F, N, C))."""
        count = max(1, limit // max(1, 8 * len(self.nodes) * self.fields[name].components))
        for start in range(0, len(self.times), count):
            yield start, self.read(name, start, start + count)


def graph_edges(case: Case) -> Index:
    """Pairs of nodes (E, 2) that share an edge of a cell or are neighbours across the seam of an axis that wraps."""
    pairs = edges(case.cells)
    return np.unique(np.concatenate([pairs, seam_edges(case.nodes, case.period, pairs)]), axis=0)


def in_memory(values: Mapping[str, Array]) -> Reader:
    """The reader of fields (T, N, C) that are in memory."""
    return lambda name, frames: values[name][frames]


def rising(times: Array, name: str) -> tuple[Index, tuple[str, ...]]:
    """Order of the frames by time, with a note where that changes anything.

    Raises: UserError: a time comes twice, or is no number.
    """
    if not np.isfinite(times).all():
        raise UserError(f"{name}: {(~np.isfinite(times)).sum()} of {len(times)} times are no numbers; repair the file")
    order = np.argsort(times, kind="stable").astype(np.int64)
    again = np.flatnonzero(np.diff(times[order]) == 0)
    if len(again):
        raise UserError(
            f"{name}: time {times[order][again[0]]:g} comes twice ({len(again)} such times); a restarted run often"
            " writes frames again: remove the older ones"
        )
    if (order == np.arange(len(order))).all():
        return order, ()
    return order, (f"{name}: the {len(times)} frames were not in the order of their times and were sorted",)


def without_nodes(case: Case, keep: NDArray[np.bool_], note: str) -> Case:
    """The case with the kept nodes only; cells that lose a corner go too."""
    if keep.all():
        return case
    rank = np.cumsum(keep) - 1
    cells = {kind: rank[index[keep[index].all(axis=1)]] for kind, index in case.cells.items()}
    boundary = {tag: rank[index[keep[index]]] for tag, index in case.boundary.items()}
    return replace(
        case,
        nodes=case.nodes[keep],
        cells={kind: index for kind, index in cells.items() if len(index)},
        boundary=boundary,
        reader=lambda name, frames: case.reader(name, frames)[:, keep],
        notes=(*case.notes, note),
    )


def problems(case: Case) -> list[str]:
    """What keeps a case from being learnt from, as messages that say what to do; empty where nothing does."""
    found = []
    bare = [n for n, f in case.fields.items() if f.units is None]
    bare += [n for n, q in case.static.items() if q.units is None]
    bare += [n for n in ("x", "t") if case.units.get(n) is None and (n == "x" or len(case.times) > 1)]
    if bare:
        example = ",".join(f"{name}:{'m' if name == 'x' else 's' if name == 't' else 'm s-1'}" for name in bare)
        found.append(
            f"no units of {', '.join(bare)} are known (x: the nodes, t: the times); give them, a pure number has 1:"
            f' "units=[{example}]"'
        )
    if not np.isfinite(case.nodes).all():
        bad = np.flatnonzero(~np.isfinite(case.nodes).all(axis=1))
        found.append(
            f"{len(bad):,} of {len(case.nodes):,} nodes have no position (the first: {bad[0]}); repair the mesh"
        )
        return found
    cells, inverted = oriented(case.nodes, case.cells)
    found += inverted
    if cells:
        count = np.bincount(pieces(len(case.nodes), graph_edges(case)))
        if len(count) > 1 and case.origin.get("pieces") != str(len(count)):
            found.append(
                f"the mesh falls into {len(count):,} pieces, of {', '.join(f'{c:,}' for c in count[:4])}"
                f"{', ...' if len(count) > 4 else ''} nodes: nothing passes from one to another; join them (in"
                " ParaView: Clean to Grid), or choose parts=largest or parts=all"
            )
    return found
