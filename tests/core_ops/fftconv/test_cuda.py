"""The CUDA kernels against float64; skipped without a GPU."""

import pytest
import torch

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = [gpu, pytest.mark.gpu]

ROUNDING = {torch.float32: 5e-7, torch.float16: 2.2e-4, torch.bfloat16: 1.05 * 1.75e-3}
LONG = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 1.9e-3}


def conv(v, k, flip=False):
    """Causal convolution, or its transpose, in float64."""
    n = 2 * v.shape[-1]
    spectrum = torch.fft.rfft(k[..., : v.shape[-1]], n)
    return torch.fft.irfft(torch.fft.rfft(v, n) * (spectrum.conj() if flip else spectrum), n)[..., : v.shape[-1]]


def expected(u, k, pregate, postgate, skip):
    """The output in float64."""
    u, k, pregate, postgate, skip = (None if x is None else x.double() for x in (u, k, pregate, postgate, skip))
    v = u if pregate is None else u * pregate
    k = k.repeat_interleave(u.shape[1] // k.shape[0], 0)
    y = conv(v, k) + (0 if skip is None else skip[:, None] * v)
    return y if postgate is None else y * postgate


def relative(got, want):
    """Relative L2 error; an all-zero or unwritten output is 1 or NaN."""
    assert want.norm() > 0
    return ((got.double() - want).norm() / want.norm()).item()


def inputs(batch, channels, length, taps, dtype, groups=None, gates=True, seed=0):
    """u, k, pregate, postgate, skip."""
    g = torch.Generator("cuda").manual_seed(seed)
    u, pre, post = (torch.randn(batch, channels, length, generator=g, device="cuda").to(dtype) for _ in range(3))
    k = torch.randn(groups or channels, taps, generator=g, device="cuda")
    skip = torch.randn(channels, generator=g, device="cuda")
    return (u, k, pre, post, skip) if gates else (u, k, None, None, None)


def run(u, k, pregate, postgate, skip):
    """The operator."""
    from farfield.core_ops.fftconv.cuda.impl import conv_cuda

    return conv_cuda(u, k, pregate, postgate, skip)


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("length", [1, 2, 31, 127, 128, 200, 509, 1000, 2048, 4096, 5000, 8192, 12289, 16384])
def test_rows_on_one_chip_are_exact(length, dtype):
    given = inputs(3, 4, length, max(1, length - 3), dtype)
    bound = ROUNDING[dtype]
    if length < 64 and dtype != torch.float32:
        bound *= 1.5
    assert relative(run(*given), expected(*given)) < bound


@pytest.mark.parametrize("dtype", list(LONG), ids=str)
@pytest.mark.parametrize("length", [16385, 32768, 65536, 100003, 131072, 262144, 500000, 1 << 20])
def test_long_rows_are_exact(length, dtype):
    given = inputs(2, 2, length, length, dtype)
    assert relative(run(*given), expected(*given)) < LONG[dtype]


@pytest.mark.parametrize("length", [300, 4096, 40000])
def test_groups_strides_and_missing_gates(length):
    u, k, pre, post, skip = inputs(3, 6, length, 2 * length, torch.float32, groups=2)
    wide = torch.randn(3, 6, 2 * length, device="cuda")
    for given in ((u, k, None, None, skip), (u, k, pre, None, None), (wide[:, :, 1::2], k, None, post, skip)):
        assert relative(run(*given), expected(*given)) < 1e-6


@pytest.mark.parametrize("kind", ["dc", "pink", "spike"])
@pytest.mark.parametrize("length", [4096, 65536])
def test_hard_inputs(length, kind):
    u, k, pre, post, skip = inputs(2, 3, length, length, torch.float32)
    if kind == "dc":
        u = u + 30
    elif kind == "spike":
        u[..., length // 3] = 1e4
    else:
        f = torch.arange(1, length // 2 + 2, device="cuda").rsqrt()
        u = torch.fft.irfft(torch.fft.rfft(u) * f, length)
    given = u, k, pre, post, skip
    assert relative(run(*given), expected(*given)) < 1e-6
    half = tuple(None if x is None else x.bfloat16() for x in (u, pre, post))
    given = half[0], k, half[1], half[2], skip
    assert relative(run(*given), expected(*given)) < 2e-3


def test_compiles_captures_and_passes_opcheck():
    from farfield.core_ops.fftconv.cuda.impl import conv_cuda

    given = inputs(2, 3, 1000, 1000, torch.bfloat16)
    leaves = tuple(x.clone().requires_grad_() for x in given)
    torch.library.opcheck(conv_cuda, leaves)
    y = run(*given)
    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(*leaves), y)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        captured = run(*given)
    captured.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, y)
