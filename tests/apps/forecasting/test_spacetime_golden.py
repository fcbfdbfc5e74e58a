"""The released network, in float64, is the official one: outputs, losses, gradients, transforms, preprocessing."""

from __future__ import annotations

import pytest
import torch

from farfield.apps.forecasting.blocks import Preprocess, average_residuals, differences, filter_rows
from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.forecasting.level import measure
from tests.apps.forecasting.networks import golden_network
from tests.golden import golden

NETS = ["net_official_cfg", "net_small_1block", "net_small_3block_last", "net_small_multivar3", "net_small_shift_std"]
TOLERANCE = 1e-9


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Relative L2 distance."""
    assert x.shape == y.shape
    return float((x.detach() - y).norm() / y.norm())


@pytest.mark.parametrize("name", NETS)
def test_outputs_and_losses_are_the_released_ones(name: str) -> None:
    tensors, facts = golden("spacetime", name)
    net, batch = golden_network(tensors, facts)
    said = net.predictions(batch)
    assert distance(said.closed, tensors["y_c"]) < TOLERANCE
    assert distance(said.open, tensors["y_o"]) < TOLERANCE
    assert distance(said.predicted_inputs.permute(1, 2, 0), tensors["z_pred"]) < TOLERANCE
    assert distance(said.inputs.permute(1, 2, 0), tensors["z_true"]) < TOLERANCE
    for i, term in enumerate(("loss_closed", "loss_open", "loss_z")):
        weights = tuple(float(i == j) for j in range(3))
        assert net.loss(batch, weights).item() == pytest.approx(tensors[term].item(), rel=TOLERANCE)
    assert distance(net(batch.y), tensors["y_c"]) < TOLERANCE


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_the_released_ones(name: str) -> None:
    tensors, facts = golden("spacetime", name)
    net, batch = golden_network(tensors, facts)
    net.loss(batch).backward()
    compared = 0
    for key, parameter in net.named_parameters():
        wanted = tensors.get(f"grad.{key}")
        if wanted is None or not wanted.any():
            # The decoder's skip is in the file and in no formula.
            assert parameter.grad is None or not parameter.grad.any()
            continue
        assert parameter.grad is not None
        assert distance(parameter.grad, wanted) < TOLERANCE
        compared += 1
    assert compared >= 10


def test_parameters_of_the_released_size() -> None:
    tensors, facts = golden("spacetime", "net_official_cfg")
    net, _ = golden_network(tensors, facts)
    assert sum(p.numel() for p in net.parameters()) == 52737


@pytest.mark.parametrize("name", ["mean", "last", "standardise"])
def test_transforms_are_the_released_ones(name: str) -> None:
    tensors, facts = golden("spacetime", "data_transforms")
    config = SpaceTimeConfig(
        lag=facts["lag"], horizon=1, targets=2, model_dim=16, n_kernels=1, transform=name, compat=True
    )
    level = measure(tensors["x"][:, : facts["lag"]], None, config)
    theirs = name.replace("ise", "ize")
    assert distance(level.apply(tensors["x"]), tensors[f"{theirs}.u"]) < 1e-12
    assert distance(level.invert(tensors[f"{theirs}.u"] + 1), tensors[f"{theirs}.inv_u_plus1"]) < 1e-12


@pytest.mark.parametrize("name", ["pre_residual_0", "pre_residual_1_shortL"])
def test_preprocessing_is_the_released_one(name: str) -> None:
    tensors, facts = golden("spacetime", name)
    kwargs = facts["kwargs"]
    config = SpaceTimeConfig(
        lag=1, horizon=1, model_dim=kwargs["model_dim"], max_average=kwargs["max_avg_window"], n_kernels=1, compat=True
    )
    pre = Preprocess(config).double()
    pre.load_state_dict({k: tensors[f"param.{k}"] for k in ("diff_kernel", "ma_r_kernel")})
    length = tensors["x"].shape[1]
    filters = pre.filters()[:, :length]
    padded = torch.nn.functional.pad(filters, (0, length - filters.shape[1]))
    assert distance(padded, tensors["kernel"]) < 1e-12
    # There every channel has an input of its own.
    x = tensors["x"].permute(2, 0, 1)
    assert distance(filter_rows(x.contiguous(), filters.contiguous()).permute(1, 2, 0), tensors["out0"]) < 1e-12
    # Here all variants read the same input.
    u = x[:1]
    ours = pre(u)[:, 0]
    assert distance(ours, filter_rows(u.expand(len(filters), -1, -1).contiguous(), filters)) < 1e-12


def test_differences_are_the_released_ones() -> None:
    tensors, _ = golden("spacetime", "pre_differencing_0")
    assert torch.equal(tensors["param.kernel"][:4], differences().double())


def test_a_moving_average_residual_takes_the_mean_away() -> None:
    # Released as a layer of its own, it is the identity.
    kernel = average_residuals(torch.tensor([4, 7]), 10).double()
    y = filter_rows(torch.full((2, 3, 20), 5.0, dtype=torch.float64), kernel)
    assert y[:, :, 9:].abs().max() < 1e-6
    assert y[:, :, 0].min() > 1
