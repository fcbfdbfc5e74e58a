"""The network: what it is blind to, what it is not, members that do not mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from farfield.apps.physics.gnn import MemberLinear, Network
from farfield.apps.physics.graph import Graph, graph_of, grid_pairs

KINDS = pytest.mark.parametrize("edge_state", [False, True])


def network(edge_state: bool = False, members: int = 2, filters: bool = True, **values: int) -> Network:
    sizes = {"width": 16, "blocks": 2, "seed": 3} | values
    net = Network(3, 3, 2, 2, members=members, edge_state=edge_state, filters=filters, **sizes)
    return net.double()


def grid(shape: tuple[int, int] = (4, 5), shift: float = 0.0, order: np.ndarray | None = None) -> Graph:
    axes = [np.linspace(0, 1, n) for n in shape]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2) + shift
    pairs = grid_pairs(shape, (False, False), 2)
    if order is not None:
        back = np.argsort(order)
        nodes, pairs = nodes[order], back[pairs]
    graph = graph_of(nodes, pairs)
    return Graph(graph.source, graph.outgoing, graph.mask, graph.features.double())


def run(net: Network, graph: Graph, nodes: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    return net(nodes, sample, net.edges(graph), graph)


def inputs(n: int = 20, members: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(members, 3, n, 3, dtype=torch.float64), torch.randn(members, 3, 2, dtype=torch.float64)


@KINDS
def test_numbering_the_nodes_otherwise_changes_nothing(edge_state: bool) -> None:
    net, (x, s) = network(edge_state), inputs()
    order = np.random.default_rng(1).permutation(20)
    there = run(net, grid(order=order), x[:, :, order], s)
    here = run(net, grid(), x, s)
    assert here.abs().max() > 1e-3
    torch.testing.assert_close(there, here[:, :, order], rtol=0, atol=1e-12)


@KINDS
def test_moving_the_whole_graph_changes_nothing(edge_state: bool) -> None:
    net, (x, s) = network(edge_state), inputs()
    torch.testing.assert_close(run(net, grid(shift=8.0), x, s), run(net, grid(), x, s), rtol=0, atol=1e-6)


@KINDS
def test_turning_the_graph_does_change_it(edge_state: bool) -> None:
    net, (x, s), graph = network(edge_state), inputs(), grid()
    turned = graph.features[:, [1, 0, 2]] * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    other = Graph(graph.source, graph.outgoing, graph.mask, turned)
    assert (run(net, other, x, s) - run(net, graph, x, s)).abs().max() > 1e-4


@KINDS
def test_a_node_hears_as_far_as_there_are_blocks(edge_state: bool) -> None:
    net, (x, s) = network(edge_state, blocks=1), inputs()
    here = run(net, grid(), x, s)
    other = x.clone()
    other[:, :, 0] += 1
    changed = (run(net, grid(), other, s) - here).abs().amax((0, 1, 3)) > 1e-9
    near = {0, 1, 2, 5, 6, 10, 12}
    assert set(changed.nonzero()[:, 0].tolist()) <= near
    assert changed[[0, 1, 5, 6]].all()


@KINDS
def test_what_holds_for_the_sample_reaches_every_node(edge_state: bool) -> None:
    net, (x, s) = network(edge_state), inputs()
    assert ((run(net, grid(), x, s + 1) - run(net, grid(), x, s)).abs().amax((0, 1, 3)) > 1e-6).all()


@KINDS
def test_members_and_samples_do_not_mix(edge_state: bool) -> None:
    net, (x, s) = network(edge_state), inputs()
    here = run(net, grid(), x, s)
    other = x.clone()
    other[1, 2] += 1
    there = run(net, grid(), other, s)
    same = (there == here).flatten(2).all(-1)
    assert same.tolist() == [[True, True, True], [True, True, False]]


def test_a_members_weights_depend_on_its_own_seed_alone() -> None:
    both, alone = network(members=2, seed=5), network(members=1, seed=6)
    for a, b in zip(both.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a[1:], b)
    assert not torch.equal(both.node_in.weight[0], both.node_in.weight[1])


@KINDS
def test_gradients_of_weights_and_features_are_exact(edge_state: bool) -> None:
    net, graph = network(edge_state, members=1, width=4, blocks=1), grid((2, 3))
    x, s = torch.randn(1, 1, 6, 3, dtype=torch.float64, requires_grad=True), torch.randn(1, 1, 2, dtype=torch.float64)
    weight = net.blocks[0].split.weight

    def value(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = torch.func.functional_call(net, {"blocks.0.split.weight": w}, (x, s, net.edges(graph), graph))
        return y[..., 0]

    assert torch.autograd.gradcheck(value, (x, weight.detach().requires_grad_()), atol=1e-5, eps=1e-6)


@KINDS
def test_filters_multiply_messages_and_may_be_left_out(edge_state: bool) -> None:
    (x, s), graph = inputs(), grid()
    net, plain = network(edge_state), network(edge_state, filters=False)
    assert not any("filters" in name for name, _ in plain.named_parameters())
    here = run(net, graph, x, s)
    for block in net.blocks:
        torch.nn.init.zeros_(block.filters.weight)
        torch.nn.init.ones_(block.filters.bias)
    rest = {n: p for n, p in net.state_dict().items() if "filters" not in n}
    plain.load_state_dict(rest)
    torch.testing.assert_close(run(net, graph, x, s), run(plain, graph, x, s))
    assert (run(plain, graph, x, s) - here).abs().max() > 1e-4


def test_a_layer_of_members_is_a_layer_each() -> None:
    seeds = [torch.Generator().manual_seed(k) for k in range(3)]
    layer = MemberLinear(4, 5, seeds)
    x = torch.randn(3, 2, 7, 4)
    for k in range(3):
        torch.testing.assert_close(layer(x)[k], x[k] @ layer.weight[k] + layer.bias[k])
