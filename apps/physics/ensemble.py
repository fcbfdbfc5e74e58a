"""A trained ensemble: load, save, roll out, predict.

Shapes: K members, R runs, T frames, N nodes of the data, n coarse nodes, C components, M + 1 knots in time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from farfield.apps.physics.case import Case
from farfield.apps.physics.clock import Clock, Windows, curve_matrix, state_times, windows_of
from farfield.apps.physics.conditions import as_long, longer, with_static
from farfield.apps.physics.graph import Graph
from farfield.apps.physics.graphsplinenets import GraphSplineNets
from farfield.apps.physics.places import Places, places_again, places_state
from farfield.apps.physics.prepared import Prepared, Scales, prepare
from farfield.apps.physics.runs import Runs, held_parts
from farfield.apps.physics.timing import median_seconds
from farfield.apps.training import UserError
from farfield.apps.training.atomic import atomic_folder
from farfield.apps.training.checkpoint import read_weights, write_weights
from farfield.apps.training.device import resolve_device

if TYPE_CHECKING:
    from farfield.apps.physics.field import Field

FORMAT, VERSION = "farfield-graphsplinenets", 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Values of coarse states and fine fields that are held at once.
HELD_AT_ONCE = 2**28


@dataclass
class Ensemble:
    """K networks over one set of coarse nodes and times.

    Args:
        net: The networks. places, clock, scales: Where and when they look, and in which units.
        like: The runs' description: mesh, fields, parameters, units; no runs in it are needed.
        model: Settings.
        factor: (C,), turns the members' spread into an error; None where nothing was held out.
        tolerance: (C,), errors above it are not to be trusted.
        about: Whatever describes the training.
    """

    net: GraphSplineNets
    places: Places
    clock: Clock
    scales: Scales
    like: Runs
    model: dict[str, Any]
    factor: Tensor | None = None
    tolerance: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """n."""
        return self.places.count

    @property
    def steps(self) -> int:
        """Calls of the network in a rollout over all frames."""
        return self.clock.steps

    @property
    def members_count(self) -> int:
        """K."""
        return self.net.network.members

    def prepared(self, runs: Runs, device: torch.device) -> Prepared:
        """Runs on the same mesh as this ensemble's."""
        return prepare(runs, self.places, self.scales, self.model, device)

    @torch.no_grad()
    def coarse(self, runs: Runs, device: str = "auto") -> tuple[np.ndarray, Tensor]:
        """Coarse times the curve goes through, and physical values there: (M,), (K, R, M, n, C)."""
        self._fits(runs)
        on = resolve_device(device)
        net = self.net.to_device(on).eval()
        whole = whole_run(self.clock, on)
        found = [rolled_out(net, self.prepared(runs.take([r]), on), whole) for r in range(len(runs))]
        states = self.scales.physical(torch.cat(found, 1).cpu())
        times, through = state_times(self.clock, self.clock.knots)
        return times[through], states[:, :, torch.from_numpy(through)]

    @torch.no_grad()
    def members(self, runs: Runs, device: str = "auto") -> Tensor:
        """Every member's fields at all frames and nodes of the data, (K, R, T, N, C); held values are the runs' own."""
        self._fits(runs)
        on = resolve_device(device)
        net = self.net.to_device(on).eval()
        curve = torch.from_numpy(curve_matrix(self.clock, self.clock.knots, runs.times)).float().to(on)
        whole, places, scales = whole_run(self.clock, on), self.places.to(on), self.scales.to(on)
        known = torch.from_numpy(runs.held).to(on)
        size = self.members_count * runs.values[0].numel()
        batch = max(1, HELD_AT_ONCE // max(1, size))
        found = []
        for first in range(0, len(runs), batch):
            part = runs.take(range(first, min(first + batch, len(runs))))
            states = rolled_out(net, self.prepared(part, on), whole)
            fields = scales.physical(places.expanded(along(curve, states)))
            found.append(torch.where(known, part.values.to(on), fields).cpu())
        return torch.cat(found, 1)

    def projected(self, runs: Runs) -> Tensor:
        """The truth at the coarse nodes and times, and the splines through it: what the splines alone cost.

        Returns: (R, T, N, C).
        """
        curve = torch.from_numpy(curve_matrix(self.clock, self.clock.knots, runs.times)).float()
        fill = whole_run(self.clock, torch.device("cpu")).fill[0][:, : len(runs.times)]
        states = along(fill, self.places.started(self.scales.fields(runs.values)))
        fields = self.scales.physical(self.places.expanded(along(curve, states)))
        return torch.where(torch.from_numpy(runs.held), runs.values, fields)

    def rollout(self, runs: Runs, *, member: int | None = None, device: str = "auto") -> Tensor:
        """The mean of the members' fields, or one member's, (R, T, N, C)."""
        found = self.members(runs, device)
        return found.mean(0) if member is None else found[member]

    def seconds(self, runs: Runs, device: str = "auto", *, member: int = 0, repeats: int = 20) -> float:
        """Median time of one member's rollout of one run, from its first frame to all frames at all nodes."""
        on = resolve_device(device)
        alone = self.alone(member)
        net = alone.net.to_device(on).eval()
        run = runs.take([0])
        prepared = alone.prepared(run, on)
        curve = torch.from_numpy(curve_matrix(self.clock, self.clock.knots, runs.times)).float().to(on)
        whole, places, scales = whole_run(self.clock, on), self.places.to(on), self.scales.to(on)

        known, values = torch.from_numpy(run.held).to(on), run.values.to(on)

        def once() -> Tensor:
            fields = scales.physical(places.expanded(along(curve, rolled_out(net, prepared, whole))))
            return torch.where(known, values, fields)

        with torch.inference_mode():
            return median_seconds(once, on, repeats)

    def alone(self, member: int) -> Ensemble:
        """An ensemble of one of the members."""
        if not 0 <= member < self.members_count:
            raise UserError(f"member={member}: 0 to {self.members_count - 1} are accepted")
        model = self.model | {"members": 1}
        net = network_of(model, self.net.graph.to(torch.device("cpu")), self.places, self.scales, self.like)
        net.load_state_dict({k: v[member : member + 1].cpu() for k, v in self.net.state_dict().items()})
        return replace(self, net=net, model=model)

    def predict(
        self,
        case: Case,
        times: np.ndarray | None = None,
        static: Mapping[str, float] | None = None,
        device: str = "auto",
    ) -> Field:
        """A field over the whole domain and all times, from the first frame of a case.

        Args:
            case: On the mesh that the ensemble was trained on; frames after the first give boundary values, inputs
                and signals alone.
            times: That the field must reach; None is as long as the training runs. Later times are more steps.
            static: Parameters instead of the case's own.
        Raises: UserError: another mesh, other fields or parameters.
        """
        from farfield.apps.physics.field import Field
        from farfield.apps.physics.times import TimeMap

        case = with_static(case, static or {}, self.like)
        case = as_long(case, self.like, times)
        runs = Runs.of([case], like=self.like)
        self._fits(runs)
        clock = longer(self.clock, runs.times)
        on = resolve_device(device)
        with torch.no_grad():
            states = rolled_out(self.net.to_device(on).eval(), self.prepared(runs, on), whole_run(clock, on)).cpu()
        values = self.scales.physical(states[:, 0]).double()
        at, through = state_times(clock, clock.knots)
        at = at + float(case.times[0])
        if clock.order == 1:
            time_map = TimeMap.through(at)
        else:
            ends = [clock.at(f) + float(case.times[0]) for f in clock.knots]
            time_map = TimeMap.collocation(ends, clock.order)
        return Field(
            self.space(),
            time_map,
            values[:, torch.from_numpy(through)],
            self.like.names,
            self.component_units(),
            factor=self.factor,
            tolerance=self.tolerance,
            static=dict(case.static),
        )

    def component_units(self) -> dict[str, str | None]:
        """Units of every component, and of "x" and "t"."""
        names = iter(self.like.names)
        found = {next(names): self.like.units.get(name) for name, count in self.like.fields for _ in range(count)}
        return found | {axis: self.like.units.get(axis) for axis in ("x", "t")}

    def space(self) -> Any:
        """The map between coarse nodes and any place; for a network on all nodes, one through those."""
        if self.places.space is not None:
            return self.places.space
        from farfield.apps.physics.irregular import Irregular
        from farfield.apps.physics.rectangle import Rectangle
        from farfield.apps.physics.resample import grid_lines

        if (lines := grid_lines(self.like.nodes)) is not None:
            return Rectangle.through(lines, self.like.period)
        return Irregular(self.like.nodes, self.like.cells, self.like.boundary, held=held_parts(self.like))

    def _fits(self, runs: Runs) -> None:
        same = runs.nodes.shape == self.like.nodes.shape and np.allclose(runs.nodes, self.like.nodes, rtol=0, atol=1e-9)
        if not same:
            raise UserError(
                f"{runs.labels[0]}: its mesh ({len(runs.nodes):,} nodes) is not the one trained on"
                f" ({len(self.like.nodes):,} nodes); interpolate the run to that mesh first"
            )

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors in one step."""
        tensors, about = places_state(self.places)
        like = self.like
        weights = {f"net.{k}": v.detach().cpu() for k, v in self.net.state_dict().items()}
        weights |= {f"places.{k}": v for k, v in tensors.items()}
        weights |= {f"scales.{k}": v for k, v in self.scales.state().items()}
        weights |= {f"cells.{k}": torch.from_numpy(v) for k, v in like.cells.items()}
        weights |= {f"boundary.{k}": torch.from_numpy(np.asarray(v)) for k, v in like.boundary.items()}
        weights |= {"nodes": torch.from_numpy(like.nodes), "held": torch.from_numpy(like.held)}
        weights |= {"times": torch.from_numpy(like.times)}
        for name, value in (("factor", self.factor), ("tolerance", self.tolerance)):
            weights |= {name: value} if value is not None else {}
        config = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "places": about,
            "clock": {"knots": list(self.clock.knots), "order": self.clock.order, "even": self.clock.even},
            "cells": list(like.cells),
            "boundary": list(like.boundary),
            "period": list(like.period),
            "fields": [list(f) for f in like.fields],
            "inputs": [list(f) for f in like.input_fields],
            "static": list(like.static_names),
            "signals": list(like.signal_names),
            "dirichlet": list(like.dirichlet),
            "units": like.units,
            "about": self.about,
        }
        with atomic_folder(folder) as temporary:
            write_weights(temporary / WEIGHTS, weights)
            (temporary / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Ensemble:
        """What `save` wrote, or the run folder of a training.

        Raises: UserError: there is none, or it is of another kind.
        """
        path = Path(folder)
        path = path / "model" if (path / "model" / CONFIG).is_file() else path
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            weights = read_weights(path / WEIGHTS)
        except (OSError, ValueError) as error:
            raise UserError(
                f"checkpoint={folder}: no trained network is there ({error}); give the folder that train printed,"
                " runs/physics/train/<time>/model"
            ) from error
        if config.get("format") != FORMAT or config["version"] > VERSION:
            raise UserError(
                f"checkpoint={folder}: a file of format {config.get('format')!r}, version {config.get('version')};"
                f" {FORMAT!r} up to {VERSION} is accepted"
            )
        like = _like(config, weights)
        scales = Scales(**{k.removeprefix("scales."): v for k, v in weights.items() if k.startswith("scales.")})
        clock = Clock(like.times, tuple(config["clock"]["knots"]), config["clock"]["order"], config["clock"]["even"])
        stored = {k.removeprefix("places."): v for k, v in weights.items() if k.startswith("places.")}
        places, graph = places_again(stored, config["places"], like, config["model"])
        net = network_of(config["model"], graph, places, scales, like)
        net.load_state_dict({k.removeprefix("net."): v for k, v in weights.items() if k.startswith("net.")})
        return cls(
            net.eval(),
            places,
            clock,
            scales,
            like,
            config["model"],
            weights.get("factor"),
            weights.get("tolerance"),
            config["about"],
        )


def network_of(
    model: Mapping[str, Any], graph: Graph, places: Places, scales: Scales, like: Runs, seed: int = 0
) -> GraphSplineNets:
    """A network for some places and data; weights drawn from the seed."""
    nodes = torch.from_numpy(places.nodes)
    low, high = nodes.amin(0), nodes.amax(0)
    parts = torch.zeros(len(nodes), len(like.boundary), dtype=torch.bool)
    for p, part in enumerate(like.boundary):
        if part in places.boundary:
            parts[places.boundary[part], p] = True
    return GraphSplineNets(
        model,
        graph,
        2 * (nodes - low) / (high - low).clamp(min=1e-30) - 1,
        places.held,
        parts,
        scales.change,
        moving=bool(scales.moving),
        inputs=len(scales.input_mean),
        static=len(like.static_names),
        signals=len(like.signal_names),
        seed=seed,
    )


def rolled_out(net: GraphSplineNets, prepared: Prepared, whole: Windows) -> Tensor:
    """Normalised states of whole runs, (K, R, X, n, C).

    Args:
        whole: The one window from the first frame to the last, on the device.
    """
    device, windows = prepared.states.device, whole
    members, runs = net.network.members, len(prepared.states)
    run = torch.arange(runs, device=device).expand(members, runs)
    kind = torch.zeros_like(run)
    frames = torch.cat([torch.zeros(1, dtype=torch.int64, device=device), windows.frames[0]])
    known = prepared.known(run, kind, frames.expand(members, runs, -1), windows)
    found: Tensor = net(prepared.states[run, 0], known)
    return found


def along(curve: Tensor, states: Tensor) -> Tensor:
    """The curve in time: (T, X) times states (.., X, n, C)."""
    return torch.unflatten(curve @ states.flatten(-2), -1, states.shape[-2:])


def whole_run(clock: Clock, device: torch.device) -> Windows:
    """The one window that is a rollout."""
    return windows_of(clock, [clock.knots]).to(device)


def _like(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Runs:
    """The runs' description without a run."""
    nodes, times = weights["nodes"].numpy(), weights["times"].numpy()
    fields = tuple((str(n), int(c)) for n, c in config["fields"])
    inputs = tuple((str(n), int(c)) for n, c in config["inputs"])
    count = sum(c for _, c in fields)
    shape = (0, len(times), len(nodes))
    return Runs(
        nodes=nodes,
        cells={k: weights[f"cells.{k}"].numpy() for k in config["cells"]},
        period=tuple(config["period"]),
        # In the order of the training: the network knows parts by their place.
        boundary={k: weights[f"boundary.{k}"].numpy() for k in config["boundary"]},
        held=weights["held"].numpy(),
        times=times,
        values=torch.empty(*shape, count),
        inputs=torch.empty(*shape, sum(c for _, c in inputs)),
        static=torch.empty(0, len(config["static"]), dtype=torch.float64),
        signals=torch.empty(0, len(times), len(config["signals"])),
        fields=fields,
        input_fields=inputs,
        static_names=tuple(config["static"]),
        signal_names=tuple(config["signals"]),
        units=dict(config["units"]),
        split=(),
        labels=(),
        dirichlet=tuple(config["dirichlet"]),
        parameters={},
    )
