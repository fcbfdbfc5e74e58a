"""FilterSpectrum in place of k, and transforms that find their way to torch, on a CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from farfield.core_ops import FilterSpectrum, KernelUnavailable, fftconv

Near = Callable[[Tensor, Tensor, float], None]
MODES = ["causal", "full", "circular", "two_sided"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [200, 20000])
def test_a_kept_spectrum_gives_the_same_and_follows_its_filter(mode: str, length: int, near: Near) -> None:
    k, skip = torch.randn(2, 101), torch.randn(4)
    kept = FilterSpectrum(k)
    for batch in (1, 3, 3):
        u = torch.randn(batch, 4, length)
        near(fftconv(u, kept, mode=mode, skip=skip), fftconv(u, k, mode=mode, skip=skip, impl="torch"), 1e-6)
    assert len(kept.kept) == 1
    k.mul_(-3)
    near(fftconv(u, kept, mode=mode, skip=skip), fftconv(u, k, mode=mode, skip=skip, impl="torch"), 1e-6)


def test_what_cannot_read_a_kept_spectrum_uses_the_filter(near: Near) -> None:
    u, k = torch.randn(1, 2, 300), torch.randn(2, 300, requires_grad=True)
    kept = FilterSpectrum(k)
    (fftconv(u, kept).square().sum()).backward()
    assert k.grad is not None
    seq_idx = (torch.arange(300) // 100)[None]
    with torch.no_grad():
        near(fftconv(u, kept, seq_idx=seq_idx), fftconv(u, k, seq_idx=seq_idx), 1e-6)
        for impl in ("torch", "reference"):
            near(fftconv(u, kept, impl=impl), fftconv(u, k), 1e-6)
        small = FilterSpectrum(k, cache_bytes=100)
        near(fftconv(u, small), fftconv(u, k), 1e-6)
    assert not kept.kept
    assert not small.kept


def test_transforms_of_auto_go_to_torch(near: Near) -> None:
    u, k = torch.randn(2, 3, 40), torch.randn(3, 40)
    want = fftconv(u, k, impl="torch")
    near(torch.func.vmap(lambda v: fftconv(v, k))(torch.stack([u, -u]))[1], -want, 1e-6)
    near(torch.func.jvp(lambda v: fftconv(v, k), (u,), (u,))[1], want, 1e-6)
    gradient = torch.func.grad(lambda v: fftconv(v, k).square().sum())(u)
    leaf = u.clone().requires_grad_()
    near(gradient, torch.autograd.grad(fftconv(leaf, k).square().sum(), leaf)[0], 1e-6)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(u, 2 * u)
        near(forward_ad.unpack_dual(fftconv(dual, k)).tangent, 2 * want, 1e-6)
        with pytest.raises(KernelUnavailable, match="impl='torch'"):
            fftconv(dual, k, impl="cpu")
