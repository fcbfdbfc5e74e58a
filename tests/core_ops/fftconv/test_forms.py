"""The GPU's way through every mode and through packed sequences, its kernels replaced by torch.fft: runs on a CPU."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.core_ops.fftconv.cuda import engine, impl, packing
from farfield.core_ops.fftconv.cuda.forms import form_of
from farfield.core_ops.fftconv.reference import fftconv_reference

Near = Callable[[Tensor, Tensor, float], None]
MODES = ["causal", "full", "circular", "two_sided"]


def operands(mode: str, length: int, taps: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """u, k, pregate, postgate, skip; two channels share a filter."""
    torch.manual_seed(0)
    total = length + taps - 1 if mode == "full" else length
    u, pre = (torch.randn(2, 4, length).to(dtype) for _ in range(2))
    return [u, torch.randn(2, taps), pre, torch.randn(2, 4, total).to(dtype), torch.randn(4)]


def expected(given: list[Tensor], mode: str, cotangent: Tensor, seq_idx: Tensor | None = None) -> list[Tensor]:
    """The output and the gradients by the definition in float64."""
    leaves = [x.double().requires_grad_() for x in given]
    u, k, pre, post, skip = leaves
    y = fftconv_reference(u, k, mode=mode, pregate=pre, postgate=post, skip=skip, seq_idx=seq_idx)  # type: ignore[arg-type]
    return [y.detach(), *torch.autograd.grad(y, leaves, cotangent.double())]


def ours(given: list[Tensor], mode: str, cotangent: Tensor, seq_idx: Tensor | None = None) -> list[Tensor]:
    """The same through forms and packing; gradients in the order of the operands."""
    y = impl.convolve(engine.by_torch, *given, seq_idx, mode)
    return [y, *impl.differentiate(engine.gradients_by_torch, cotangent, *given, seq_idx, mode)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("taps", [1, 3, 63, 129, 301])
@pytest.mark.parametrize("length", [1, 2, 61, 128, 200])
def test_every_mode_and_its_gradients(mode: str, length: int, taps: int) -> None:
    given = operands(mode, length, taps)
    cotangent = torch.randn_like(given[3])
    for a, b in zip(ours(given, mode, cotangent), expected(given, mode, cotangent), strict=True):
        assert a.shape == b.shape
        assert a.is_contiguous()
        assert (a - b).norm() <= 3e-6 * b.norm() + 1e-6
        assert b.norm() > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bit_operands_are_rounded_once(mode: str, dtype: torch.dtype, near: Near) -> None:
    given = operands(mode, 331, 301, dtype)
    cotangent = torch.randn_like(given[3])
    rounding = {torch.float16: 2.3e-4, torch.bfloat16: 1.9e-3}[dtype]
    for i, (a, b) in enumerate(zip(ours(given, mode, cotangent), expected(given, mode, cotangent), strict=True)):
        assert a.dtype == (torch.float32 if i in (2, 5) else dtype)
        near(a, b, 3e-6 if i in (2, 5) else rounding)


@pytest.mark.parametrize("mode", ["causal", "two_sided"])
@pytest.mark.parametrize("taps", [1, 31, 401])
@pytest.mark.parametrize("present", ["all", "none"])
def test_packed_sequences_and_their_gradients(mode: str, taps: int, present: str) -> None:
    given = operands(mode, 420, taps)
    seq_idx = torch.zeros(2, 420, dtype=torch.int32)
    for row, cuts in enumerate(([1, 2, 150, 151, 400], [300])):
        for cut in cuts:
            seq_idx[row, cut:] += 1
    cotangent = torch.randn_like(given[0])
    want = expected(given, mode, cotangent, seq_idx)
    if present == "none":
        u, k = given[:2]
        none = [torch.ones_like(u), torch.ones_like(u), torch.zeros(4)]
        want = expected([u, k, *none], mode, cotangent, seq_idx)[:3]
        got = [
            impl.convolve(engine.by_torch, u, k, None, None, None, seq_idx, mode),
            *impl.differentiate(engine.gradients_by_torch, cotangent, u, k, None, None, None, seq_idx, mode),
        ]
    else:
        got = ours(given, mode, cotangent, seq_idx)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert b.norm() > 0
        assert (a - b).norm() <= 3e-6 * b.norm()


def test_no_sequence_sees_another() -> None:
    """A sequence of infinities leaves its neighbours as they are, bit for bit."""
    u, k, pre, post, skip = operands("causal", 500, 500)
    seq_idx = (torch.arange(500) // 100).expand(2, 500)
    clean = impl.convolve(engine.by_torch, u, k, pre, post, skip, seq_idx, "causal")
    poisoned = u.clone()
    poisoned[0, :, 200:300] = float("inf")
    y = impl.convolve(engine.by_torch, poisoned, k, pre, post, skip, seq_idx, "causal")
    others = torch.ones(2, 500, dtype=torch.bool)
    others[0, 200:300] = False
    assert torch.equal(y[:, 0][others], clean[:, 0][others])
    assert not torch.isfinite(y[0, 0, 200:300]).any()


def test_sequences_are_rows_of_like_length() -> None:
    lengths = [3, 128, 129, 200, 1000, 540]
    seq_idx = torch.repeat_interleave(torch.arange(6) % 2, torch.tensor(lengths))[None]
    found = packing.sequences(seq_idx)
    assert [(s.count, s.length) for s in found] == [(2, 128), (2, 200), (2, 1000)]
    held = torch.cat([s.at(1, 2000) for s in found])
    assert torch.equal(held[held < 2000].sort().values, torch.arange(2000))


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 300), taps=st.integers(1, 400), mode=st.sampled_from(MODES), seed=st.integers(0, 99))
def test_any_shape_is_its_definition(length: int, taps: int, mode: str, seed: int) -> None:
    taps += mode == "two_sided" and taps % 2 == 0
    torch.manual_seed(seed)
    u, k = torch.randn(1, 2, length), torch.randn(2, taps)
    want = fftconv_reference(u.double(), k.double(), mode=mode)  # type: ignore[arg-type]
    y = impl.convolve(engine.by_torch, u, k, None, None, None, None, mode)
    assert (y - want).norm() <= 2e-6 * (u.norm() * k.norm() + want.norm())


def test_rows_are_no_longer_than_they_must_be() -> None:
    assert form_of("causal", 1000, 5000).length == 1000
    assert form_of("full", 1000, 24).length == 1023
    assert form_of("two_sided", 1000, 49).length == 1024
    assert form_of("two_sided", 1000, 99999).length == 2000
    assert form_of("two_sided", 1000, 99999, led=True).length == 1000
    assert form_of("two_sided", 16385, 99999, led=True).length == 32776
    assert form_of("circular", 4096, 9000).length == 4096
    assert form_of("circular", 4096, 9000).circular
    assert form_of("circular", 1000, 25).length == 1024
    assert not form_of("circular", 64, 64).circular
