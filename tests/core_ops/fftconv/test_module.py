"""FFTConv: a kept spectrum is never a stale one; streaming equals the whole."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from farfield.core_ops import FFTConv, ShapeError, fftconv

Near = Callable[[Tensor, Tensor, float], None]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def fresh(layer: FFTConv, u: Tensor) -> Tensor:
    """What the layer should compute, without anything kept."""
    return fftconv(u, layer.k, skip=layer.skip, mode=layer.mode, impl="torch").detach()


def changes() -> dict[str, Callable[[FFTConv], object]]:
    """Ways of changing a filter."""
    other = FFTConv(3, 900)
    return {
        "in place": lambda m: m.k.mul_(2),
        "loaded": lambda m: m.load_state_dict(other.state_dict()),
        "assigned": lambda m: m.load_state_dict(copy.deepcopy(other.state_dict()), assign=True),
        "replaced": lambda m: setattr(m, "k", torch.nn.Parameter(other.k.detach() + 1)),
        "trained": lambda m: (m.train(), m.k.data.mul_(3), m.eval()),
        "data, then forget": lambda m: (m.k.data.mul_(3), m.forget()),
        "cast": lambda m: m.double(),
        "cast and back": lambda m: m.bfloat16().float(),
        "moved": lambda m: m.to("cpu", torch.float64),
    }


@pytest.mark.parametrize("change", list(changes()))
@pytest.mark.parametrize("length", [900, 20000])
@torch.no_grad()
def test_a_changed_filter_drops_its_spectrum(change: str, length: int, near: Near) -> None:
    layer = FFTConv(3, 900).eval()
    u = torch.randn(2, 3, length)
    near(layer(u), fresh(layer, u), 1e-6)
    assert layer.kept
    near(layer(u), fresh(layer, u), 1e-6)
    changes()[change](layer)
    near(layer(u), fresh(layer, u), 1e-6)


@torch.no_grad()
def test_a_kept_spectrum_serves_other_lengths_and_batches(near: Near) -> None:
    layer = FFTConv(4, 500, groups=2).eval()
    for batch, length in ((1, 500), (3, 500), (1, 501), (2, 70), (1, 40000), (1, 500)):
        u = torch.randn(batch, 4, length)
        near(layer(u), fresh(layer, u), 1e-6)


def test_nothing_is_kept_for_gradients_or_beyond_the_limit(near: Near) -> None:
    u = torch.randn(1, 2, 300)
    layer = FFTConv(2, 300).eval()
    layer(u).sum().backward()
    assert layer.k.grad is not None
    assert not layer.kept
    with torch.no_grad():
        small = FFTConv(2, 300, cache_bytes=100).eval()
        near(small(u), fresh(small, u), 1e-6)
    assert not small.kept


@torch.no_grad()
def test_inference_mode_pickling_and_copies(near: Near) -> None:
    layer = FFTConv(2, 300, mode="circular").eval()
    u = torch.randn(1, 2, 300)
    with torch.inference_mode():
        layer(u)
        near(layer(u), fresh(layer, u), 1e-6)
    near(layer(u), fresh(layer, u), 1e-6)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert not other.kept
        near(other(u), fresh(layer, u), 1e-6)


@pytest.mark.parametrize("taps", [1, 2, 50, 700, 1500])
@pytest.mark.parametrize("prompt", [1, 100, 620])
@pytest.mark.parametrize("layout", ["bhl", "blh"])
def test_streaming_equals_the_whole(taps: int, prompt: int, layout: str, near: Near) -> None:
    layer = FFTConv(4, taps, groups=2, dtype=torch.float64, layout=layout).eval()
    u, p, q = (torch.randn(2, 4, 1000, dtype=torch.float64) for _ in range(3))
    turn = (lambda x: x.transpose(1, 2)) if layout == "blh" else (lambda x: x)
    whole = turn(layer(turn(u), pregate=turn(p), postgate=turn(q)))
    first = slice(0, prompt)
    y, state = layer.prefill(turn(u[..., first]), pregate=turn(p[..., first]), postgate=turn(q[..., first]))
    near(turn(y), whole[..., first], 1e-12)
    steps = [layer.step(u[..., t], state, pregate=p[..., t], postgate=q[..., t]) for t in range(prompt, 1000)]
    near(torch.stack(steps, -1), whole[..., prompt:], 1e-12)


def test_streaming_needs_a_causal_filter() -> None:
    with pytest.raises(ShapeError, match="causal"):
        FFTConv(2, 3, mode="circular").prefill(torch.randn(1, 2, 8))


def test_packed_sequences(near: Near) -> None:
    layer = FFTConv(2, 30).eval()
    u, seq_idx = torch.randn(1, 2, 30), torch.tensor([[0] * 10 + [1] * 20])
    with torch.no_grad():
        y = layer(u, seq_idx=seq_idx)
        near(y[..., 10:], fresh(layer, u[..., 10:]), 1e-6)
