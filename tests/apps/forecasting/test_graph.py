"""A captured training step and a network on a GPU do what they do on a CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from farfield.apps.forecasting.graph import WARMUPS, GraphedStep
from farfield.apps.forecasting.windows import Batch
from tests.apps.forecasting.networks import network, series


def batch_for(device: str) -> Batch:
    y, _, _ = series(network(), 8, 42, 0)
    return Batch(y[:, :30].to(device), y[:, 30:].to(device), None, None, None, None)


@pytest.mark.gpu
@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (1.0, 1.0, 1.0)])
def test_captured_steps_learn_as_those_of_the_cpu_do(weights: tuple[float, float, float]) -> None:
    losses: dict[str, list[float]] = {}
    for device in ("cpu", "cuda"):
        net = copy.deepcopy(network(dropout=0.0)).to(device).train()
        rate = torch.tensor(1e-3, device=device) if device == "cuda" else 1e-3
        optimiser = torch.optim.AdamW(net.parameters(), lr=rate, capturable=device == "cuda")
        step = GraphedStep(net, optimiser, weights, "fp32", torch.device(device))
        batch = batch_for(device)
        losses[device] = [float(step(batch)) for _ in range(WARMUPS + 6)]
        assert (step.graph is not None) == (device == "cuda")
    assert losses["cpu"][-1] < losses["cpu"][0]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", ["plain", "covariates", "free"])
def test_a_network_forecasts_the_same_on_a_gpu(shape: str) -> None:
    net = network(shape)
    y, known, past = series(net, 3, 30, 31)
    there = torch.rand(y.shape, generator=torch.Generator().manual_seed(2)) > 0.3
    given = (y.where(there, 0.0), known, past, there, 31)
    expected = net(*given).detach()
    moved = [v.cuda() if isinstance(v, torch.Tensor) else v for v in given]
    said = net.cuda()(*moved).detach().cpu()
    assert float((said - expected).abs().max()) < 2e-5 * float(expected.abs().max())
