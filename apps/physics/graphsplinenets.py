"""GraphSplineNets: a graph network steps a coarse state forward, splines in time and space fill in the rest.

Shapes: K members, B samples, n coarse nodes, C components, I inputs, S parameters, Z signals, W intervals, r values an
interval, X = 1 + W r states of a window.

One call of the network makes one interval: from the state at its start, the states at its Gauss points in time and at
its end, as increments in units of their spread in the training data.

Source: Hua et al. 2023, "GraphSplineNets", arXiv:2310.16397.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from farfield.apps.physics.gnn import Edges, Network
from farfield.apps.physics.graph import Graph
from farfield.apps.training import UserError

SCALES = ("data", "run")
# Least amplitude that a run is scaled by, in units of the training data's spread.
FAINT = 1e-6


@dataclass(frozen=True)
class Known:
    """What is known of some windows beforehand, normalised.

    Args:
        held: (K, B, X, n, C), values at the nodes that are held; other nodes are not looked at.
        inputs: (K, B, X, n, I). signals: (K, B, X, Z). static: (K, B, S).
        lengths: (K, B, W), log of the intervals over the usual one. interval: (K, B, W), which scale of change.
    """

    held: Tensor
    inputs: Tensor
    signals: Tensor
    static: Tensor
    lengths: Tensor
    interval: Tensor


class GraphSplineNets(nn.Module):
    """The network between coarse states.

    Args:
        model: width, blocks, members, edge_state, filters, positions, scale of recipes/physics/model/.
        graph: Over the n nodes.
        nodes: (n, D), within -1 to 1.
        held: (n, C), where values are known beforehand.
        parts: (n, P), which part of the boundary a node is on.
        change: (intervals, r, C): spread of the increments to each state of an interval.
        moving: Whether held values change with time, and so have to be told.
        inputs, static, signals: I, S, Z.
        seed: Of member 0; member k has seed + k.
    """

    held: Tensor
    change: Tensor
    marks: Tensor

    def __init__(
        self,
        model: Mapping[str, Any],
        graph: Graph,
        nodes: Tensor,
        held: Tensor,
        parts: Tensor,
        change: Tensor,
        *,
        moving: bool,
        inputs: int,
        static: int,
        signals: int,
        seed: int,
    ) -> None:
        super().__init__()
        if model["scale"] not in SCALES:
            raise UserError(f"model.scale={model['scale']}: {', '.join(SCALES)} are accepted")
        for name in ("width", "blocks", "members"):
            if not isinstance(model[name], int) or isinstance(model[name], bool) or model[name] < 1:
                raise UserError(f"model.{name}={model[name]}: a whole number, at least 1, is accepted")
        self.graph, self.moving, self.by_run = graph, moving, model["scale"] == "run"
        self.rank, count = change.shape[1], held.shape[1]
        marks = [held.float(), parts.float(), *([nodes.float()] if model["positions"] else [])]
        self.register_buffer("held", held, persistent=False)
        self.register_buffer("change", change, persistent=False)
        self.register_buffer("marks", torch.cat(marks, 1), persistent=False)
        features = count * (1 + self.rank * moving) + (1 + self.rank) * inputs + self.marks.shape[1]
        self.network = Network(
            features,
            graph.features.shape[1],
            static + (1 + self.rank) * signals + 1,
            self.rank * count,
            width=model["width"],
            blocks=model["blocks"],
            members=model["members"],
            seed=seed,
            edge_state=bool(model["edge_state"]),
            filters=bool(model.get("filters", False)),
        )

    def to_device(self, device: torch.device) -> GraphSplineNets:
        """Network and graph on a device."""
        self.graph = self.graph.to(device)
        return self.to(device)

    def forward(self, start: Tensor, known: Known) -> Tensor:
        """All states of windows.

        Args:
            start: (K, B, n, C), normalised. known: Of the same windows.
        Returns: (K, B, X, n, C), the start among them; held values are those of `known`.
        """
        r, steps = self.rank, known.interval.shape[-1]
        edges = self.network.edges(self.graph)
        state, states = start, [start[:, :, None]]
        for w in range(steps):
            ahead = self.step(state, known, w, edges)
            states.append(ahead)
            state = ahead[:, :, r - 1]
        return torch.cat(states, 2)

    def step(self, state: Tensor, known: Known, w: int, edges: Edges) -> Tensor:
        """The states of interval w, (K, B, r, n, C), from the one at its start."""
        r, c = self.rank, state.shape[-1]
        here = slice(w * r, w * r + r + 1)
        size = amplitude(state) if self.by_run else torch.ones_like(state[..., :1, :1])
        # Intervals beyond those trained on change as the last of them.
        change = self.change[known.interval[..., w].clamp(max=len(self.change) - 1)] * size
        held = known.held[:, :, here][:, :, 1:]
        told = [state / size]
        if self.moving:
            away = torch.where(self.held, (held - state[:, :, None]) / change[:, :, :, None], 0)
            told.append(away.movedim(2, -2).flatten(-2))
        if known.inputs.shape[-1]:
            told.append((known.inputs[:, :, here] / size[:, :, None]).movedim(2, -2).flatten(-2))
        told.append(self.marks.expand(*state.shape[:2], *self.marks.shape))
        sample = torch.cat([known.static, known.signals[:, :, here].flatten(2), known.lengths[..., w : w + 1]], -1)
        out = self.network(torch.cat(told, -1), sample, edges, self.graph)
        ahead = state[:, :, None] + torch.unflatten(out, -1, (r, c)).movedim(-2, 2) * change[:, :, :, None]
        return torch.where(self.held, held, ahead)


def amplitude(states: Tensor) -> Tensor:
    """Root mean square over nodes and components, (.., 1, 1) of (.., n, C)."""
    return states.pow(2).mean((-2, -1), keepdim=True).sqrt() + FAINT


def usual_length(lengths: Tensor) -> float:
    """The geometric mean of the intervals: what lengths are told in units of."""
    return math.exp(float(lengths.double().log().mean()))
