"""Where a network looks: coarse nodes, and the fixed linear maps between values there and the data.

Shapes: N nodes of the data, n coarse nodes, D dimensions, C components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farfield.apps.physics.adaptive import denser, node_density, partitions, some
from farfield.apps.physics.graph import Graph, delaunay_pairs, graph_of, grid_pairs, nearest_pairs, territory_pairs
from farfield.apps.physics.mesh import edges as mesh_edges
from farfield.apps.physics.mesh import measures, seam_edges
from farfield.apps.physics.runs import SAME, Runs, held_nodes, held_parts
from farfield.apps.physics.sampling import sampling_matrix
from farfield.apps.physics.space import SpaceMap, from_state
from farfield.apps.training import UserError

GRAPHS = ("auto", "delaunay", "nearest", "mesh")
# Of a box along each axis, unless model.cells says otherwise.
CELLS = 6
# Nodes that held profiles may add, as a share of model.nodes.
PROFILES = 0.25
# How often the nodes of a mesh are chosen again where splines between them err; runs and frames that this is seen on.
AGAIN, SEEN = 2, (8, 25)
# How much a first state at the coarse nodes is drawn towards the values there, in the least squares over all nodes.
RIDGE = 1e-6


@dataclass(frozen=True)
class Places:
    """Coarse nodes, and maps between values there and values at the nodes of the data.

    Args:
        space: None where the coarse nodes are the nodes of the data.
        nodes: (n, D) float64.
        boundary: Coarse nodes by part. held: (n, C), where values are known beforehand.
        sample: (n, N) float32: values of data at the coarse nodes; None is the identity, as below.
        expand: (N, n): the spline at the nodes of the data.
        start: (C, n, N): the coarse state whose spline is nearest to data where these are not held; held values exact.
        root: (C, n, n): |expand v - u|^2 = |root (v - start u)|^2 + what no v can change, over nodes that are not held.
    """

    space: SpaceMap | None
    nodes: np.ndarray
    boundary: dict[str, Tensor]
    held: Tensor
    sample: Tensor | None
    expand: Tensor | None
    start: Tensor | None
    root: Tensor | None
    chosen: np.ndarray | None = None

    @property
    def count(self) -> int:
        """n."""
        return len(self.nodes)

    def to(self, device: torch.device) -> Places:
        """The maps on a device."""
        names = ("held", "sample", "expand", "start", "root")
        maps: dict[str, Any] = {name: getattr(self, name) for name in names}
        moved: dict[str, Any] = {name: None if m is None else m.to(device) for name, m in maps.items()}
        return replace(self, **moved)

    def sampled(self, values: Tensor) -> Tensor:
        """Data (.., N, C) at the coarse nodes (.., n, C)."""
        return values if self.sample is None else self.sample @ values

    def started(self, values: Tensor) -> Tensor:
        """Data (.., N, C) as coarse states (.., n, C)."""
        if self.start is None:
            return values
        start = self.start
        return torch.stack([values[..., c] @ start[c].mT for c in range(values.shape[-1])], -1)

    def expanded(self, states: Tensor) -> Tensor:
        """Coarse states (.., n, C) at the nodes of the data (.., N, C)."""
        return states if self.expand is None else self.expand @ states


def places_of(runs: Runs, model: Mapping[str, Any], train: Runs, spread: Tensor | None = None) -> tuple[Places, Graph]:
    """Coarse nodes for some data.

    Args:
        runs: Any runs on the mesh. model: The settings of recipes/physics/model/. train: Runs whose shape the adapted
            places follow. spread: Of an ensemble over these (R, T, N, C), to be followed instead.
    Raises: UserError: a setting does not fit the mesh.
    """
    nodes, cells = runs.nodes, runs.cells
    pairs = mesh_edges(cells)
    pairs = np.unique(np.concatenate([pairs, seam_edges(nodes, runs.period, pairs)]), axis=0)
    if model["space"] == "nodes":
        found = pairs if len(pairs) and model["graph"] in ("auto", "mesh") else None
        boundary = {part: torch.from_numpy(np.asarray(index)) for part, index in runs.boundary.items()}
        held = torch.from_numpy(runs.held)
        places = Places(None, nodes, boundary, held, None, None, None, None)
        if found is not None and is_grid(nodes):
            found = grid_pairs(grid_shape(nodes), tuple(p is not None for p in runs.period), int(model["levels"]))
        return places, _graph(places, runs, model, found)
    if fills_box(runs):
        return places_from(_box(runs, model, train, spread), None, runs, model, pairs)
    count = int(model["nodes"])
    if not 4 <= count < len(runs.nodes):
        raise UserError(f"model.nodes={count}: 4 to {len(runs.nodes) - 1:,} of the mesh's nodes are accepted")
    if not runs.cells:
        raise UserError(
            "the nodes fill no box and have no cells: what lies inside is not known; give data with a mesh, or"
            " model.space=nodes with model.graph=nearest"
        )
    if not model["adapt_space"]:
        return _among(runs, model, pairs, None)
    density = node_density(train, pairs, spread)
    best = _among(runs, model, pairs, density)
    if spread is None:
        squares = least = spline_squares(best[0], train)
        for _ in range(AGAIN):
            density = denser(density, squares, pairs)
            other = _among(runs, model, pairs, density)
            squares = spline_squares(other[0], train)
            if squares.sum() < least.sum():
                best, least = other, squares
    return best


def spline_squares(places: Places, train: Runs) -> np.ndarray:
    """Mean squared error of splines through some of the data at every node (N,), in units of the fields' spread.

    First frames are left out, as they are where networks are judged: they are given, and often the roughest.
    """
    values = some(train)[:, 1:]
    runs, frames = (max(1, -(-size // most)) for size, most in zip(values.shape[:2], SEEN, strict=True))
    values = values[::runs, ::frames]
    off = places.expanded(places.started(values)) - values
    known = torch.from_numpy(train.held)
    return np.asarray(torch.where(known, 0.0, off).double().pow(2).mean((0, 1, 3)).numpy())


def places_from(
    space: SpaceMap, chosen: np.ndarray | None, runs: Runs, model: Mapping[str, Any], pairs: np.ndarray | None = None
) -> tuple[Places, Graph]:
    """The maps and the graph of given coarse nodes."""
    if pairs is None:
        pairs = mesh_edges(runs.cells)
        pairs = np.unique(np.concatenate([pairs, seam_edges(runs.nodes, runs.period, pairs)]), axis=0)
    fine = torch.from_numpy(runs.nodes)
    expand = space.matrix(fine).double()
    if chosen is None:
        sample = sampling_matrix(runs.nodes, space.nodes.numpy(), runs.period)
    else:
        sample = torch.zeros(len(chosen), len(runs.nodes), dtype=torch.float64)
        sample[torch.arange(len(chosen)), torch.from_numpy(chosen)] = 1
    held = held_nodes(space.boundary, len(space.nodes), runs.dirichlet, runs.fields)
    known = torch.from_numpy(runs.held)
    maps = [_nearest_state(expand, sample, held[:, c], known[:, c]) for c in range(held.shape[1])]
    places = Places(
        space=space,
        nodes=space.nodes.numpy(),
        boundary=space.boundary,
        held=held,
        sample=sample.float(),
        expand=expand.float(),
        start=torch.stack([start for start, _ in maps]).float(),
        root=torch.stack([root for _, root in maps]).float(),
        chosen=chosen,
    )
    levels = int(model["levels"])
    pattern = None
    if model["graph"] == "auto":
        if chosen is not None:
            pattern = territory_pairs(runs.nodes, pairs, chosen, levels)
        else:
            pattern = grid_pairs(tuple(space.shape), tuple(p is not None for p in runs.period), levels)  # type: ignore[attr-defined]
    return places, _graph(places, runs, model, pattern)


def _nearest_state(expand: Tensor, sample: Tensor, held: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """(n, N), (n, n): least squares over the data's nodes that are not held, for the free values; and its root.

    Args:
        held: (n,) coarse nodes, known: (N,) nodes of the data, with values known beforehand.
    """
    rows = expand[~known]
    weight = RIDGE * float((expand**2).sum() / expand.shape[1])
    found = torch.zeros_like(sample)
    found[held] = sample[held]
    free = ~held
    rest = torch.eye(expand.shape[0], dtype=expand.dtype)[~known] - rows[:, held] @ sample[held]
    inner = rows[:, free]
    normal = inner.mT @ inner + weight * torch.eye(inner.shape[1], dtype=expand.dtype)
    found[free] = torch.linalg.solve(normal, inner.mT @ rest + weight * sample[free])
    root = torch.linalg.qr(torch.cat([rows, rows.new_zeros(max(0, expand.shape[1] - len(rows)), expand.shape[1])])).R
    return found, root


def _box(runs: Runs, model: Mapping[str, Any], train: Runs, spread: Tensor | None) -> SpaceMap:
    from farfield.apps.physics.rectangle import Rectangle

    d = runs.nodes.shape[1]
    given = CELLS if model["cells"] is None else model["cells"]
    cells = given if isinstance(given, list) else [given] * d
    if len(cells) != d or any(not isinstance(c, int) or c < 1 for c in cells):
        raise UserError(f"model.cells={model['cells']}: a whole number, or a list of one for each of {d} axes")
    knots = partitions(train, cells, int(model["order"]), bool(model["adapt_space"]), spread)
    ends = ["periodic" if p is not None else "dirichlet" for p in runs.period]
    space = Rectangle(knots, int(model["order"]), ends)
    if len(space.nodes) > len(runs.nodes):
        raise UserError(
            f"model.cells={cells} of order {model['order']} have {len(space.nodes):,} nodes, more than the"
            f" {len(runs.nodes):,} of the data; take fewer cells, or model.space=nodes"
        )
    return space


def _among(runs: Runs, model: Mapping[str, Any], pairs: np.ndarray, density: np.ndarray | None) -> tuple[Places, Graph]:
    """Coarse nodes among those of a mesh."""
    from farfield.apps.physics.coarsen import choose
    from farfield.apps.physics.irregular import Irregular

    count = int(model["nodes"])
    chosen = np.asarray(choose(runs.nodes, runs.cells, count, runs.boundary, density=density))
    profiled = np.union1d(chosen, profiles(runs))
    chosen = profiled if len(profiled) <= (1 + PROFILES) * count else chosen
    space = Irregular(runs.nodes, runs.cells, runs.boundary, chosen=chosen, held=held_parts(runs))
    return places_from(space, chosen, runs, model, pairs)


def profiles(runs: Runs) -> np.ndarray:
    """Nodes of held parts along which the held values differ, as on an inlet: between few nodes they are but near."""
    found = [np.empty(0, np.int64)]
    for part in held_parts(runs):
        index = np.asarray(runs.boundary[part], np.int64)
        values = runs.values[:, :, torch.from_numpy(index)][..., torch.from_numpy(runs.held[index].all(axis=0))]
        if values.numel() and float((values.amax(2) - values.amin(2)).max()) > SAME * float(values.abs().max()):
            found.append(index)
    return np.unique(np.concatenate(found))


def _graph(places: Places, runs: Runs, model: Mapping[str, Any], known: np.ndarray | None) -> Graph:
    kind = model["graph"]
    if kind not in GRAPHS:
        raise UserError(f"model.graph={kind}: {', '.join(GRAPHS)} are accepted")

    def inside(points: np.ndarray) -> np.ndarray:
        assert places.space is not None
        return places.space.contains(torch.from_numpy(points)).numpy()

    look = inside if places.space is not None else None
    if known is not None:
        found = known
    elif kind == "nearest":
        found = nearest_pairs(places.nodes, int(model["neighbours"]), look)
    elif kind == "mesh":
        raise UserError("model.graph=mesh needs model.space=nodes and data with cells; take graph=auto")
    else:
        found = delaunay_pairs(places.nodes, look)
    return graph_of(places.nodes, found, runs.period)


def fills_box(runs: Runs) -> bool:
    """Whether the cells fill the box around the nodes: no holes, straight sides."""
    low, high = runs.nodes.min(axis=0), runs.nodes.max(axis=0)
    if runs.cells:
        size = sum(float(m.sum()) for m in measures(runs.nodes, runs.cells).values())
        return abs(size / float(np.prod(high - low)) - 1) < 1e-6
    return is_grid(runs.nodes)


def is_grid(nodes: np.ndarray) -> bool:
    """Whether nodes are a full grid, the last axis fastest."""
    shape = grid_shape(nodes)
    if int(np.prod(shape)) != len(nodes):
        return False
    axes = [np.unique(nodes[:, k]) for k in range(nodes.shape[1])]
    full = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, nodes.shape[1])
    return bool(np.allclose(full, nodes, rtol=0, atol=1e-9))


def grid_shape(nodes: np.ndarray) -> tuple[int, ...]:
    """Different positions along each axis."""
    return tuple(len(np.unique(nodes[:, k])) for k in range(nodes.shape[1]))


def places_state(places: Places) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `places_again` needs."""
    if places.space is None:
        return {}, {"kind": "nodes"}
    tensors, about = places.space.state()
    found = {f"space.{name}": value for name, value in tensors.items()}
    if places.chosen is not None:
        found["chosen"] = torch.from_numpy(places.chosen)
    return found, about


def places_again(
    tensors: Mapping[str, Tensor], about: Mapping[str, Any], runs: Runs, model: Mapping[str, Any]
) -> tuple[Places, Graph]:
    """The places that were stored, for runs on the same domain."""
    if about["kind"] == "nodes":
        return places_of(runs, model, runs)
    space = from_state({n.removeprefix("space."): t for n, t in tensors.items() if n.startswith("space.")}, about)
    chosen = tensors["chosen"].numpy() if "chosen" in tensors else None
    return places_from(space, chosen, runs, model)
