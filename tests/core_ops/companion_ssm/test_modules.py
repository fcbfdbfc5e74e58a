"""CompanionSSM and RTF: the official layers where those are right, and their defects mended."""

import pytest
import torch
from torch import Tensor

from farfield.core_ops.companion_ssm import RTF, CompanionSSM
from farfield.core_ops.errors import ShapeError
from tests.golden import golden


def loaded(t: dict[str, Tensor], order: int, **options: object) -> RTF:
    """A layer in float64 with the official weights."""
    channels = t["x"].shape[-1]
    layer = RTF(channels, order, layout="blh", dtype=torch.float64, **options)  # type: ignore[arg-type]
    layer.load_official({key.removeprefix("param."): x for key, x in t.items()})
    return layer


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rtf_xavier_even", {}),
        ("rtf_oddL", {}),
        ("rtf_zeros_noise_short", {}),
        ("rtf_l1montel_sharedA", {"systems": 2, "constraint": "l1_montel"}),
        ("rtf_bidir", {"bidirectional": True}),
    ],
)
def test_official_weights_give_official_outputs_with_their_period(name: str, options: dict[str, object]) -> None:
    t, facts = golden("spacetime", name)
    long = facts["kwargs"]["trunc_len"]
    period = long + long % 2
    layer = loaded(t, facts["kwargs"]["state_size"], aliased=period, **options)
    x = t["x"].clone().requires_grad_()
    y = layer(x)
    assert (y - t["out"]).abs().max() <= 1e-9 * t["out"].abs().max()
    grads = torch.autograd.grad((y * t["w"]).sum(), [x, layer.den, layer.num, layer.h0])
    assert (grads[0] - t["grad.x"]).abs().max() <= 1e-9 * t["grad.x"].abs().max()
    rows = torch.cat([g.flatten(0, 1) for g in grads[1:3]])
    assert (rows - t["grad.ab"]).abs().max() <= 1e-9 * t["grad.ab"].abs().max()
    # What the period brings back is the whole difference to the terms themselves.
    layer.aliased = None
    terms = layer.kernel(40 * period)
    folded = terms.unflatten(-1, (40, period)).sum(-2)[..., :long]
    layer.aliased = period
    assert (folded - layer.kernel(long)).abs().max() <= 1e-12


@pytest.mark.parametrize("name", ["rtf2_even", "rtf2_oddL"])
def test_the_corrected_numerator_of_rtf2_is_ours(name: str) -> None:
    t, facts = golden("spacetime", name)
    layer = loaded(t, facts["kwargs"]["state_size"])
    # RTF2's numerator begins at z^0.
    k = layer.kernel(facts["L"] + 1)[0, :, 1:].clone()
    k[:, 0] += layer.h0[0]
    assert (k - t["kernel_step"]).abs().max() <= 1e-12
    if "even" in name:
        assert (k - t["kernel"]).abs().max() <= 1e-12


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33])
@pytest.mark.parametrize("constraint", ["none", "l1_montel"])
def test_steps_equal_the_convolution_for_every_length(length: int, constraint: str) -> None:
    torch.manual_seed(0)
    layer = RTF(4, 5, systems=2, init="montel", constraint=constraint, dtype=torch.float64)  # type: ignore[arg-type]
    u = torch.randn(2, 4, length, dtype=torch.float64)
    state, outputs = layer.initial_state(2), []
    for t in range(length):
        y, state = layer.step(state, u[..., t])
        outputs.append(y)
    assert torch.allclose(torch.stack(outputs, -1), layer(u), atol=1e-12)
    assert layer(u).abs().max() > 0.1


def test_the_constraint_holds_in_both_directions_while_training() -> None:
    torch.manual_seed(0)
    layer = RTF(6, 8, systems=3, init="montel", constraint="l1_montel", bidirectional=True)
    assert layer.certify().proven.shape == (2, 3)
    optimiser = torch.optim.SGD(layer.parameters(), lr=5.0)
    u = torch.randn(2, 6, 40)
    before = layer(u).detach()
    for _ in range(3):
        optimiser.zero_grad()
        (layer(u) - u.roll(1, -1)).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())
        optimiser.step()
        assert layer.certify().proven.all()
        assert layer.certify().inside.all()
    assert not torch.allclose(layer(u), before)
    with pytest.raises(ShapeError, match="bidirectional"):
        layer.step(layer.initial_state(2), u[..., 0])


def test_zero_initialisation_is_a_scaling() -> None:
    layer = RTF(3, 7)
    u = torch.randn(2, 3, 11)
    assert torch.allclose(layer(u), u * layer.h0[0][:, None], atol=1e-5)


@pytest.mark.parametrize("layout", ["bhl", "blh"])
def test_companion_layer_streams_what_it_convolves(layout: str) -> None:
    torch.manual_seed(0)
    layer = CompanionSSM(6, 5, kernels=3, layout=layout, dtype=torch.float64)  # type: ignore[arg-type]
    u = torch.randn(2, 6, 20, dtype=torch.float64)
    y = layer(u.mT.contiguous() if layout == "blh" else u)
    y = y.mT if layout == "blh" else y
    head, state = layer.prefill((u[..., :12].mT if layout == "blh" else u[..., :12]).contiguous())
    parts = [head.mT if layout == "blh" else head]
    for t in range(12, 20):
        out, state = layer.step(state, u[..., t])
        parts.append(out[..., None])
    assert torch.allclose(torch.cat(parts, -1), y, atol=1e-12)
    assert y.abs().max() > 0.1
    assert layer.certify().proven.all()
    assert layer.poles().shape == (3, 5, 2)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="kernels dividing channels"):
        CompanionSSM(6, 4, kernels=4)
    with pytest.raises(ShapeError, match="systems dividing channels"):
        RTF(6, 4, systems=4)
