"""The forward of long rows on a GPU: every kind of input, dtype, alignment and mode, against float64."""

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: long rows were NOT run"),
]


@pytest.fixture(autouse=True)
def seeded():
    """The same inputs each time."""
    torch.manual_seed(0)


def convolved(u, k, pregate, postgate, size):
    """float64, causal for size = 2 L, circular for size = L."""
    u, k = u.double() if pregate is None else u.double() * pregate.double(), k.double()
    y = torch.fft.irfft(torch.fft.rfft(u, size) * torch.fft.rfft(k, size), size)[..., : u.shape[-1]]
    return y if postgate is None else y * postgate.double()


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


def run(u, k, pregate=None, postgate=None, circular=False, staged=True):
    from farfield.core_ops.fftconv.cuda.launch import Operands
    from farfield.core_ops.fftconv.cuda.long_forward import long_forward
    from farfield.core_ops.fftconv.cuda.plan import fft_size

    y = torch.full(u.shape, float("nan"), dtype=u.dtype, device=u.device)
    long_forward(Operands(u, k, pregate, postgate, None), y, fft_size(u.shape[2]), staged, circular)
    return y


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda").to(dtype)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float16, 6e-4), (torch.bfloat16, 1.9e-3)])
@pytest.mark.parametrize("length", [32768, 40961, 131072, 1048576])
def test_outputs_are_exact(length, dtype, bound):
    staged = length % 8 == 0
    u, pregate, postgate = (normal(3, 2, length, dtype=dtype) for _ in range(3))
    k = normal(1, length)
    got = run(u, k, pregate, postgate, staged=staged)
    assert relative(got, convolved(u, k, pregate, postgate, 2 * length)) < bound
    assert torch.equal(got, run(u, k, pregate, postgate, staged=staged))


def beside(u, k):
    """The norm of the whole convolution, by that of its causal half: a transform spreads its error over both."""
    size = 2 * u.shape[-1]
    y = torch.fft.irfft(torch.fft.rfft(u.double(), size) * torch.fft.rfft(k.double(), size), size)
    return max(1.0, (0.5**0.5 * y.norm() / y[..., : u.shape[-1]].norm()).item())


@pytest.mark.parametrize("kind", ["spike", "offset", "1/f", "loud end", "small"])
@pytest.mark.parametrize("taps", ["normal", "decaying"])
def test_hard_inputs_stay_exact(kind, taps):
    length = 131072
    u, t = normal(2, 2, length), torch.arange(length, device="cuda")
    k = normal(2, length) * (1.0 if taps == "normal" else torch.exp(-t / 500.0))
    if kind == "spike":
        u[..., length // 3] = 1e4
    elif kind == "offset":
        u += 100
    elif kind == "1/f":
        u = torch.fft.irfft(torch.fft.rfft(u) / torch.arange(1, length // 2 + 2, device="cuda"))
    elif kind == "loud end":
        u *= torch.where(t > length - 100, 1e3, 1e-3)
    else:
        u *= 1e-8
    assert relative(run(u, k), convolved(u, k, None, None, 2 * length)) < 1e-6 * beside(u, k)
    half, scaled = u / u.std(), k / (30 * k.norm())
    for dtype in (torch.bfloat16, torch.float16):
        x = half.to(dtype)
        want = convolved(x, scaled, None, None, 2 * length)
        rounding = relative(want.to(dtype), want)
        # Where outputs are nearly equal, roundings are not independent: errors add up.
        assert relative(run(x, scaled), want) < rounding + 6e-4 * beside(x, scaled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gates", [(True, False), (False, True)])
def test_modes_gates_and_views(dtype, gates):
    bound, length = 1e-6 if dtype == torch.float32 else 1.9e-3, 65536
    wide = normal(2, 6, length + 9, dtype=dtype)[:, ::2, 1:-8]
    pregate, postgate = (normal(2, 3, length, dtype=dtype) if there else None for there in gates)
    k = normal(3, 1000)
    got = run(wide, k, pregate, postgate, staged=False)
    assert relative(got, convolved(wide, k, pregate, postgate, 2 * length)) < bound
    u = wide.contiguous()
    got = run(u, k, pregate, postgate, circular=True)
    assert relative(got, convolved(u, k, pregate, postgate, length)) < bound
