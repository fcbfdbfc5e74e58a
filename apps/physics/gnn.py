"""Encode, pass messages, decode: networks of several members on one graph, as batched GEMMs over nodes.

Shapes: K members (own weights each), B samples, n nodes, M neighbours a node at most, H width, F features, G numbers of
a whole sample.

A message is silu(P x_j + Q x_i + g_ij), summed over the neighbours j of node i. P and Q are applied once a node, not
once an edge, and the linear layer after the activation is applied to the sum, with which it commutes. With
`filters` messages are multiplied by numbers of their edge too, m_ij = f_ij silu(..), as continuous filters are. With
`edge_state` edges keep states of their own, updated in every block as in MeshGraphNets: two more GEMMs an edge.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing

from farfield.apps.physics.graph import Graph

# Added to the messages of free slots: silu of it, and its slope, are exactly zero.
SILENT = -1e4
# The decoder starts small: an untrained network predicts little change.
SMALL = 0.1
# What edges add to messages and what they multiply them by, (K, 1 or B, n, M, H) each.
Told = tuple[Tensor, Tensor | None]


class MemberLinear(nn.Module):
    """x W_k + b_k for every member k, one batched GEMM.

    Args:
        inputs, outputs: Features.
        seeds: One a member: a member's weights depend on its own seed alone.
        gain: Factor of the initial weights.
    """

    def __init__(self, inputs: int, outputs: int, seeds: list[torch.Generator], gain: float = 1.0) -> None:
        super().__init__()
        bound = gain / math.sqrt(max(1, inputs))
        drawn = [torch.empty(inputs, outputs).uniform_(-bound, bound, generator=g) for g in seeds]
        self.weight = nn.Parameter(torch.stack(drawn))
        self.bias = nn.Parameter(torch.zeros(len(seeds), 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(K, ..., inputs) to (K, ..., outputs)."""
        y = torch.baddbmm(self.bias, x.flatten(1, -2), self.weight)
        return torch.unflatten(y, 1, x.shape[1:-1])


def wide(x: Tensor) -> Tensor:
    """At least in single precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _Hear(torch.autograd.Function):
    """x_j for every slot (.., E, H); the gradient is gathered through the graph turned around, in a fixed order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, outgoing: Tensor) -> Tensor:
        ctx.save_for_backward(outgoing)
        ctx.degree = len(source) // x.shape[-2]
        return _rows(x, source)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (outgoing,) = ctx.saved_tensors
        return torch.unflatten(_rows(grads[0], outgoing), -2, (-1, ctx.degree)).sum(-2), None, None


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x (.., n, H) by number; short numbers are moved eight bytes at a time."""
    if x.stride(-1) != 1 or any(s * x.element_size() % 8 for s in (x.shape[-1], *x.stride()[:-1])):
        return x.index_select(-2, index)
    return x.view(torch.int64).index_select(-2, index).view(x.dtype)


def hear(x: Tensor, graph: Graph) -> Tensor:
    """What each node's neighbours have: (.., n, H) to (.., n, M, H). Free slots hold the node's own."""
    heard: Tensor = _Hear.apply(x, graph.source, graph.outgoing)  # type: ignore[no-untyped-call]
    return torch.unflatten(heard, -2, (graph.nodes, graph.degree))


class Edges(NamedTuple):
    """Edges at the start of a pass.

    Args:
        state: (K, 1, n, M, H), or None where edges keep no states. told: What each block is told then.
    """

    state: Tensor | None
    told: list[Told]


class Exchange(MessagePassing):  # type: ignore[misc, unused-ignore]
    """Sums of messages over the slots of each node, on torch-geometric."""

    def __init__(self) -> None:
        super().__init__(aggr=None, node_dim=-2)

    def forward(self, messages: Tensor, filters: Tensor | None, graph: Graph) -> Tensor:
        """(.., n, M, H) before the activation, factors after it or None: (.., n, H) over the root of M."""
        size = (graph.nodes, graph.nodes)
        found: Tensor = self.propagate(graph.index, size=size, messages=messages, filters=filters)
        return found.mul(graph.degree**-0.5)

    def message(self, messages: Tensor, filters: Tensor | None) -> Tensor:
        """The activation."""
        return F.silu(messages) if filters is None else F.silu(messages) * filters

    def aggregate(self, inputs: Tensor) -> Tensor:
        """A sum over a dimension: nothing is scattered."""
        return inputs.sum(-2)


class Block(nn.Module):
    """One round of messages and one update of every node, residual.

    Args:
        width: H. seeds: One a member. edge_state: Whether edges keep states. filters: Whether they multiply messages.
    """

    def __init__(self, width: int, seeds: list[torch.Generator], edge_state: bool, filters: bool = False) -> None:
        super().__init__()
        self.width, self.edge_state = width, edge_state
        self.condition = MemberLinear(width, 2 * width, seeds)
        self.split = MemberLinear(width, 3 * width, seeds)
        self.geometry = MemberLinear(width, width, seeds)
        self.update = MemberLinear(width, width, seeds)
        self.out = MemberLinear(width, width, seeds)
        self.exchange = Exchange()
        self.edge_out = MemberLinear(width, width, seeds) if edge_state else None
        self.filters = MemberLinear(width, width, seeds) if filters else None

    def told(self, edges: Tensor, graph: Graph) -> Told:
        """What edges (K, 1 or B, n, M, H) add to messages, and what they multiply them by."""
        found: Tensor = self.geometry(edges).masked_fill(~graph.mask[..., None], SILENT)
        return found, None if self.filters is None else self.filters(edges)

    def forward(
        self, x: Tensor, state: Tensor | None, told: Told | None, c: Tensor, graph: Graph
    ) -> tuple[Tensor, Tensor | None]:
        """Nodes x (K, B, n, H), states of edges or what these tell, conditions c (K, B, H): the new x and states."""
        scale, shift = self.condition(c)[:, :, None].chunk(2, -1)
        z = F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        heard, own, kept = self.split(z).split(self.width, -1)
        if told is None:
            assert state is not None
            told = self.told(state, graph)
        geometry, filters = told
        messages = hear(heard, graph) + own[..., None, :] + geometry
        if self.edge_out is not None and state is not None:
            change = F.layer_norm(self.edge_out(F.silu(messages)), (self.width,))
            state = state + change.to(state.dtype)
            messages = change.masked_fill(~graph.mask[..., None], SILENT)
        heard_sum = self.exchange(messages, filters, graph)
        return x + self.out(F.silu(kept + self.update(heard_sum))), state


class Network(nn.Module):
    """Features of nodes, edges and the whole sample in, numbers at the nodes out.

    Args:
        node_features, edge_features, sample_features: F, D + 1, G.
        outputs: Numbers a node.
        width, blocks: H and how many rounds.
        members, seed: K; member k draws its weights from seed + k.
        edge_state: Whether edges keep states. filters: Whether they multiply messages.
    """

    def __init__(
        self,
        node_features: int,
        edge_features: int,
        sample_features: int,
        outputs: int,
        *,
        width: int,
        blocks: int,
        members: int,
        seed: int,
        edge_state: bool,
        filters: bool = False,
    ) -> None:
        super().__init__()
        seeds = [torch.Generator().manual_seed(seed + k) for k in range(members)]
        self.members, self.width, self.edge_state = members, width, edge_state
        self.node_in, self.node_mid = MemberLinear(node_features, width, seeds), MemberLinear(width, width, seeds)
        self.edge_in, self.edge_mid = MemberLinear(edge_features, width, seeds), MemberLinear(width, width, seeds)
        self.sample_in = MemberLinear(sample_features, width, seeds)
        self.blocks = nn.ModuleList(Block(width, seeds, edge_state, filters) for _ in range(blocks))
        self.mid, self.out = MemberLinear(width, width, seeds), MemberLinear(width, outputs, seeds, SMALL)

    def edges(self, graph: Graph) -> Edges:
        """What the blocks are told of the edges: the same for all samples and all steps."""
        features = torch.unflatten(graph.features, 0, (graph.nodes, graph.degree))
        found: Tensor = self.edge_mid(F.silu(self.edge_in(features.expand(self.members, 1, *features.shape))))
        return Edges(found, []) if self.edge_state else Edges(None, [b.told(found, graph) for b in self._blocks()])

    def hidden(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The matrices of the blocks, (K, H, c H), and all other parameters."""
        matrices = [m.weight for m in self.blocks.modules() if isinstance(m, MemberLinear)]
        known = {id(p) for p in matrices}
        return matrices, [p for p in self.parameters() if id(p) not in known]

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def forward(self, nodes: Tensor, sample: Tensor, edges: Edges, graph: Graph) -> Tensor:
        """Features of nodes (K, B, n, F) and of samples (K, B, G), `edges`: (K, B, n, outputs)."""
        x = wide(self.node_mid(F.silu(self.node_in(nodes))))
        c = F.silu(self.sample_in(sample))
        state = None if edges.state is None else edges.state.expand(-1, x.shape[1], -1, -1, -1)
        for i, block in enumerate(self._blocks()):
            x, state = block(x, state, edges.told[i] if edges.told else None, c, graph)
        y = F.silu(self.mid(F.layer_norm(x, x.shape[-1:])))
        # The step itself in full precision: bfloat16 would leave 0.4 % of noise on it.
        with torch.autocast(y.device.type, enabled=False):
            found: Tensor = self.out(wide(y))
        return found
