"""The gradients of the CUDA kernels against float64; skipped without a GPU."""

import pytest
import torch

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = [gpu, pytest.mark.gpu]

NAMES = ("du", "dpregate", "dpostgate", "dk", "dskip")
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
EXACT = 2e-6  # dk, whatever u and the gates are
CANCELLED = 5e-6  # dskip, one number a channel: a sum of products with no norm to hide behind


def bound(dtype, length):
    """Of du and the gates' gradients, relative L2."""
    if dtype == FP32:
        return 1e-6
    if dtype == FP16:
        return 2.3e-4 if 512 <= length <= 1 << 15 else 5e-4
    return 1.9e-3 if length >= 512 else 3e-3


def inputs(batch, channels, length, taps, dtype, groups=None, seed=0):
    """u, k, pregate, postgate, skip, dy."""
    g = torch.Generator("cuda").manual_seed(seed)
    u, pre, post, dy = (torch.randn(batch, channels, length, generator=g, device="cuda").to(dtype) for _ in range(4))
    k = torch.randn(groups or channels, taps, generator=g, device="cuda")
    return u, k, pre, post, torch.randn(channels, generator=g, device="cuda"), dy


def expected(u, k, pregate, postgate, skip, dy, circular):
    """du, dpregate, dpostgate, dk, dskip in float64."""
    leaves = [None if x is None else x.double().requires_grad_() for x in (u, k, pregate, postgate, skip)]
    v, taps = (
        leaves[0] if pregate is None else leaves[0] * leaves[2],
        leaves[1].repeat_interleave(u.shape[1] // k.shape[0], 0),
    )
    n = u.shape[2] * (1 if circular else 2)
    y = torch.fft.irfft(torch.fft.rfft(v, n) * torch.fft.rfft(taps[:, : u.shape[2]], n), n)[..., : u.shape[2]]
    y = y if skip is None else y + leaves[4][:, None] * v
    y = y if postgate is None else y * leaves[3]
    found = iter(torch.autograd.grad(y, [x for x in leaves if x is not None], dy.double()))
    du, dk, dpre, dpost, dskip = (None if x is None else next(found) for x in leaves)
    return du, dpre, dpost, dk, dskip


def gradients(u, k, pregate, postgate, skip, dy, circular=False, lead=0):
    """The same by the kernels, into memory full of NaN; `lead` taps stand before lag 0."""
    from farfield.core_ops.fftconv.cuda.gradient import backward
    from farfield.core_ops.fftconv.cuda.launch import Operands

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        k = k[:, : u.shape[2] + lead].contiguous()
        return backward(Operands(u, k, pregate, postgate, skip, lead), dy, circular)
    finally:
        torch.use_deterministic_algorithms(False)


def relative(got, want):
    """Relative L2 error; an all-zero or unwritten output is 1 or NaN."""
    assert want.norm() > 0
    return ((got.double() - want).norm() / want.norm()).item()


def check(given, circular=False):
    """Every gradient is as near as it should be."""
    u = given[0]
    for name, a, b in zip(NAMES, gradients(*given, circular), expected(*given, circular), strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            b = b[:, : a.shape[-1]] if name == "dk" else b
            assert relative(a, b) < {"dk": EXACT, "dskip": CANCELLED}.get(name, bound(u.dtype, u.shape[2])), name


LENGTHS = {
    BF16: [
        1, 77, 128, 250, 512, 1024, 2000, 4096, 8192, 16384, 20000, 32768, 65536, 100003,
        *(1 << m for m in range(17, 21)),
    ],
    FP32: [77, 512, 4096, 8192, 16384, 32768, 100003, 1 << 20],
    FP16: [1000, 16384, 32768, 1 << 17],
}  # fmt: skip


@pytest.mark.parametrize(("dtype", "length"), [(d, n) for d in LENGTHS for n in LENGTHS[d]], ids=str)
def test_gradients_are_exact_and_repeat_bitwise(length, dtype):
    channels = 4 if length <= 1 << 16 else 2
    given = inputs(3, channels, length, length, dtype, groups=2 if length != 32768 else channels)
    check(given)
    first, second = gradients(*given), gradients(*given)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("length", [1 << 21, 1 << 22])
def test_the_longest_rows_have_gradients(length):
    check(inputs(2, 1, length, length, BF16))


@pytest.mark.parametrize("length", [300, 4096, 8192, 16384, 40000])
def test_missing_gates_short_filters_and_unaligned_rows(length):
    u, k, pre, post, skip, dy = inputs(3, 4, length, length - 3, BF16)
    odd = torch.randn(3, 4, length + 1, device="cuda").to(BF16)[..., 1:]
    for given in (
        (u, k, None, None, skip, dy), (u, k, pre, None, None, dy), (u, k[:, :5], None, post, skip, dy),
        (odd, k[:2], pre, post, None, dy),
    ):  # fmt: skip
        check(given)


@pytest.mark.parametrize("length", [128, 4096, 16384, 65536])
def test_circular_gradients_are_exact(length):
    check(inputs(2, 3, length, length, FP32), circular=True)


@pytest.mark.parametrize("dtype", [BF16, FP32], ids=str)
@pytest.mark.parametrize(
    ("length", "lead", "taps"), [(100, 99, 199), (1000, 300, 800), (4096, 2048, 4096), (8000, 7999, 15999)]
)
def test_taps_before_lag_0_have_gradients(length, lead, taps, dtype):
    """The same as those of rows with `lead` zeros before u and after dy, where all taps follow lag 0."""
    for odd in (0, 1):
        u, k, pre, post, skip, dy = inputs(3, 4, length + odd, taps, dtype, groups=2)
        u, pre, post, dy = (x[..., odd:] for x in (u, pre, post, dy))
        found = gradients(u, k, pre, post, skip, dy, lead=lead)
        u, pre = (torch.nn.functional.pad(x, (0, lead)) for x in (u, pre))
        post, dy = (torch.nn.functional.pad(x, (lead, 0)) for x in (post, dy))
        shifted = k.repeat_interleave(2, 0)
        shifted[:, lead] += skip
        du, dpre, dpost, dk, _ = expected(u, shifted, pre, post, None, dy, False)
        dskip, dk = dk[:, lead], dk.view(2, 2, -1).sum(1)
        want = du[..., :length], dpre[..., :length], dpost[..., lead:], dk, dskip
        for name, a, b in zip(NAMES, found, want, strict=True):
            assert relative(a, b) < {"dk": EXACT, "dskip": CANCELLED}.get(name, bound(dtype, length)), name


def test_no_infinity_is_lost_between_passes():
    u, k, pre, post, skip, dy = inputs(2, 3, 32768, 32768, BF16)
    for at, value in ((5, float("inf")), (31000, float("nan"))):
        spoiled = dy.clone()
        spoiled[1, 1, at] = value
        du, _, _, dk, _ = gradients(u, k, pre, post, skip, spoiled)
        assert [bool(dk[h].isfinite().all()) for h in range(3)] == [True, False, True]
        assert [bool(du[1, h].isfinite().all()) for h in range(3)] == [True, False, True]


@pytest.mark.parametrize("scale", [1e-28, 1e-9, 1e9])
def test_magnitudes_do_not_matter(scale):
    u, k, _, _, _, dy = inputs(2, 2, 32768, 32768, BF16)
    check(((u.float() * scale).to(BF16), k, None, None, None, dy))


def test_memory_stays_near_inputs_and_gradients():
    u, k, pre, post, _, dy = inputs(8, 48, 65536, 65536, BF16)
    gradients(u, k, pre, post, None, dy)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradients(u, k, pre, post, None, dy)
    each = u.numel() * u.element_size()
    assert torch.cuda.max_memory_allocated() - before <= (3 + 0.3 * 7) * each + k.numel() * 4


@pytest.mark.parametrize("length", [1000, 40000])
def test_the_operator_has_these_gradients(length):
    from farfield.core_ops import fftconv

    *given, dy = inputs(2, 4, length, length, BF16, groups=2)
    leaves = [x.clone().requires_grad_() for x in given]
    u, k, pre, post, skip = leaves
    y = fftconv(u, k, pregate=pre, postgate=post, skip=skip, impl="cuda")
    du, dk, dpre, dpost, dskip = torch.autograd.grad(y, leaves, dy)
    found = gradients(*given, dy)
    assert all(torch.equal(a, b) for a, b in zip((du, dpre, dpost, dk, dskip), found, strict=True))
