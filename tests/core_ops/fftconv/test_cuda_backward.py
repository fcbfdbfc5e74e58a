"""The gradients of the CUDA kernels against float64; skipped without a GPU."""

import pytest
import torch

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = [gpu, pytest.mark.gpu]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 77, 128, 250, 512, 1024, 2000, 4096, 8192, 16384, 20000])
def test_gradients(length, dtype):
    given = inputs(3, 4, length, length, dtype, groups=2)
    leaves = [x.clone().requires_grad_() for x in given]
    dy = torch.randn_like(given[0])
    got = torch.autograd.grad(run(*leaves), leaves, dy)
    again = torch.autograd.grad(run(*leaves), leaves, dy)
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))
    exact = [x.double().requires_grad_() for x in given]
    want = torch.autograd.grad(expected(*exact), exact, dy.double())
    for name, a, b in zip(("u", "k", "pre", "post", "skip"), got, want, strict=True):
        bound = 3e-6 if name in ("k", "skip") or dtype == torch.float32 else 3e-3
        assert relative(a, b) < bound, name
