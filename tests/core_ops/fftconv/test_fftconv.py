"""fftconv against closed forms and against its definition: every mode, implementation, layout, dtype and grouping."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from farfield.core_ops import fftconv
from farfield.core_ops.fftconv.reference import fftconv_reference

Near = Callable[[Tensor, Tensor, float], None]
IMPLS = ["reference", "torch", "cpu"]
MODES = ["causal", "full", "circular", "two_sided"]
# Twice what the rounding of the output alone loses.
BOUNDS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def outputs(mode: str, length: int, taps: int) -> int:
    return length + taps - 1 if mode == "full" else length


def truth(u: Tensor, k: Tensor, **options: object) -> Tensor:
    """The definition in float64, of the operands as they are rounded."""
    given = {n: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for n, x in options.items()}
    return fftconv_reference(u.double(), k.double(), **given)  # type: ignore[arg-type]


def usable(impl: str, device: str) -> None:
    if device == "cuda" and impl == "cpu":
        pytest.skip("the CPU plans run on CPUs")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("length", [1, 7, 97, 5000])
def test_a_delta_filter_delays(impl: str, length: int, device: str, near: Near) -> None:
    usable(impl, device)
    length = min(length, 500) if impl == "reference" else length
    u = torch.randn(2, 3, length, dtype=torch.float64, device=device)
    for delay in {0, 1, length // 2, length - 1} & set(range(length)):
        k = torch.zeros(3, length, dtype=torch.float64, device=device)
        k[:, delay] = 1
        near(fftconv(u, k, impl=impl), torch.nn.functional.pad(u, (delay, 0))[..., :length], 1e-13)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("length", [1, 64, 1021])
def test_a_constant_filter_sums(impl: str, length: int, near: Near) -> None:
    u = torch.randn(2, 2, length, dtype=torch.float64)
    near(fftconv(u, torch.ones(2, length, dtype=torch.float64), impl=impl), u.cumsum(-1), 1e-13)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_geometric_filter_is_a_recursion(impl: str, near: Near) -> None:
    length, decay = 501, torch.tensor([0.9, -0.7], dtype=torch.float64)
    u = torch.randn(1, 2, length, dtype=torch.float64)
    state, expected = torch.zeros(1, 2, dtype=torch.float64), []
    for t in range(length):
        state = decay * state + u[..., t]
        expected.append(state)
    k = decay[:, None] ** torch.arange(length, dtype=torch.float64)
    near(fftconv(u, k, impl=impl), torch.stack(expected, -1), 1e-13)


@pytest.mark.parametrize("impl", ["torch", "cpu"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("taps", [1, 3, 9, 63, 131, 333])
@pytest.mark.parametrize("length", [1, 2, 61, 128])
def test_every_mode_is_its_definition(impl: str, mode: str, taps: int, length: int, near: Near) -> None:
    u, k = torch.randn(2, 4, length, dtype=torch.float64), torch.randn(4, taps, dtype=torch.float64)
    near(fftconv(u, k, mode=mode, impl=impl), truth(u, k, mode=mode), 1e-13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("layout", ["bhl", "blh"])
@pytest.mark.parametrize("groups", [2, 6])
def test_gates_skip_groups_layouts_and_dtypes(
    impl: str, dtype: torch.dtype, layout: str, groups: int, device: str, near: Near
) -> None:
    usable(impl, device)
    for mode in MODES:
        length, taps = 77, 41
        total = outputs(mode, length, taps)
        u, pregate, postgate = (torch.randn(2, 6, n, device=device).to(dtype) for n in (length, length, total))
        k = torch.randn(groups, taps, device=device, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        skip = torch.randn(6, device=device).to(dtype)
        expected = truth(u, k, mode=mode, pregate=pregate, postgate=postgate, skip=skip)
        turn = (lambda x: x.transpose(1, 2).contiguous()) if layout == "blh" else (lambda x: x)
        y = fftconv(
            turn(u), k, mode=mode, pregate=turn(pregate), postgate=turn(postgate), skip=skip, impl=impl, layout=layout
        )
        assert y.dtype == dtype
        assert y.is_contiguous()
        near(y.transpose(1, 2) if layout == "blh" else y, expected, BOUNDS[dtype])


@pytest.mark.parametrize(
    ("length", "taps"),
    [(2053, 2053), (12007, 12007), (9000, 7), (9000, 64), (20011, 1500), (3000, 9001)],
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 4])
def test_every_cpu_plan_and_its_gradients(length: int, taps: int, mode: str, channels: int, near: Near) -> None:
    taps += taps % 2 == 0
    total = outputs(mode, length, taps)
    operands = [torch.randn(2, channels, length), torch.randn(channels, taps) / taps**0.5]
    operands += [torch.randn(2, channels, length), torch.randn(2, channels, total), torch.randn(channels)]
    cotangent = torch.randn(2, channels, total)
    results = []
    for dtype, impl in ((torch.float32, "cpu"), (torch.float64, "torch")):
        u, k, pregate, postgate, skip = given = [x.to(dtype).requires_grad_() for x in operands]
        y = fftconv(u, k, mode=mode, pregate=pregate, postgate=postgate, skip=skip, impl=impl)
        results.append([y, *torch.autograd.grad(y, given, cotangent.to(dtype))])
    for i, (ours, expected) in enumerate(zip(*results, strict=True)):
        # The gradient of skip sums 2 L products that cancel.
        near(ours, expected, 2e-6 * (2 * length) ** 0.5 if i == 5 else 2e-6)


@pytest.mark.parametrize(
    ("length", "dtype", "bound"), [(1 << 20, torch.float32, 1e-6), (1 << 18, torch.float64, 1e-13)]
)
def test_error_of_long_convolutions(length: int, dtype: torch.dtype, bound: float, near: Near) -> None:
    u = torch.randn(1, 1, length, dtype=dtype)
    k = torch.randn(1, length, dtype=dtype) * torch.exp(-torch.arange(length, dtype=dtype) / (length / 8))
    k /= k.norm()
    near(fftconv(u, k), fftconv(u.double(), k.double(), impl="torch"), bound)


@pytest.mark.parametrize("length", [300, 20000])
def test_a_spike_does_not_drown_the_rest(length: int) -> None:
    u = torch.randn(1, 2, length)
    u[0, 0, 7] = 1e4
    k = torch.randn(2, length) / length**0.5
    expected = fftconv(u.double(), k.double(), impl="torch")
    error = (fftconv(u, k) - expected).abs().amax(-1)
    assert (error <= 5e-6 * expected.square().mean(-1).sqrt()).all()


@pytest.mark.parametrize("impl", ["torch", "cpu"])
@pytest.mark.parametrize("length", [50, 9000, 70000])
def test_output_ignores_the_future(impl: str, length: int) -> None:
    u, k = torch.randn(1, 2, length, dtype=torch.float64), torch.randn(2, length, dtype=torch.float64)
    poisoned, now = u.clone(), length // 3
    poisoned[..., now:] = 1e3
    past = slice(0, now)
    a, b = fftconv(u, k, impl=impl)[..., past], fftconv(poisoned, k, impl=impl)[..., past]
    # Rounding is relative to the largest values of the row, the poisoned ones.
    assert (a - b).abs().max() <= 1e-14 * 1e3 * k.norm() * length**0.5
    assert (fftconv(u, k, impl=impl) - fftconv(poisoned, k, impl=impl)).abs().max() > 1


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("mode", ["causal", "two_sided"])
def test_packed_sequences_equal_separate_ones(impl: str, mode: str, near: Near) -> None:
    # The value 5 comes back after another sequence: a new sequence all the same.
    lengths, ids = [[1, 40, 9, 14], [64], [63, 1]], [[5, 2, 5, 6], [0], [1, 0]]
    seq_idx = torch.stack(
        [torch.repeat_interleave(torch.tensor(i), torch.tensor(n)) for i, n in zip(ids, lengths, strict=True)]
    )
    operands = [torch.randn(3, 4, 64, dtype=torch.float64), torch.randn(2, 31, dtype=torch.float64)]
    operands += [torch.randn_like(operands[0]), torch.randn_like(operands[0]), torch.randn(4, dtype=torch.float64)]
    u, k, pregate, postgate, skip = given = [x.requires_grad_() for x in operands]
    y = fftconv(u, k, mode=mode, pregate=pregate, postgate=postgate, skip=skip, seq_idx=seq_idx, impl=impl)
    rows = []
    for b, row in enumerate(lengths):
        parts = [x[b : b + 1].split(row, dim=-1) for x in (u, pregate, postgate)]
        pieces = [
            fftconv(v, k, mode=mode, pregate=p, postgate=q, skip=skip, impl="reference")
            for v, p, q in zip(*parts, strict=True)
        ]
        rows.append(torch.cat(pieces, -1))
    expected = torch.cat(rows)
    near(y, expected, 1e-13)
    cotangent = torch.randn_like(y)
    for a, b in zip(
        torch.autograd.grad(y, given, cotangent), torch.autograd.grad(expected, given, cotangent), strict=True
    ):
        near(a, b, 1e-12)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_and_expanded_operands(impl: str, near: Near) -> None:
    base = torch.randn(2, 90, 3, dtype=torch.float64)
    views = {
        "transposed": base.transpose(1, 2),
        "every other": torch.randn(2, 3, 180, dtype=torch.float64)[..., ::2],
        "expanded channel": torch.randn(2, 1, 90, dtype=torch.float64).expand(2, 3, 90),
        "expanded batch": torch.randn(1, 3, 90, dtype=torch.float64).expand(2, 3, 90),
        "expanded time": torch.randn(2, 3, 1, dtype=torch.float64).expand(2, 3, 90),
    }
    k = torch.randn(90, 3, dtype=torch.float64).T
    for u in views.values():
        for gate in views.values():
            y = fftconv(u, k, pregate=gate, postgate=gate, impl=impl)
            near(y, truth(u, k, pregate=gate, postgate=gate), 1e-13)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_and_expanded_incoming_gradients(impl: str, near: Near) -> None:
    u, k = torch.randn(2, 3, 50, dtype=torch.float64), torch.randn(3, 50, dtype=torch.float64)
    dys = [
        torch.randn(2, 50, 3, dtype=torch.float64).transpose(1, 2),
        torch.randn(2, 3, 100, dtype=torch.float64)[..., 1::2],
        torch.randn(1, 1, 1, dtype=torch.float64).expand(2, 3, 50),
    ]
    for dy in dys:
        expected = [x.clone().requires_grad_() for x in (u, k)]
        fftconv(*expected, impl="reference").backward(dy.contiguous())
        ours = [x.clone().requires_grad_() for x in (u, k)]
        fftconv(*ours, impl=impl).backward(dy)
        for a, b in zip(ours, expected, strict=True):
            assert a.grad is not None
            assert b.grad is not None
            near(a.grad, b.grad, 1e-12)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), width=st.integers(1, 3), length=st.integers(1, 140),
    taps=st.integers(1, 200), mode=st.sampled_from(MODES), gated=st.booleans(), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_any_shape_is_its_definition(
    batch: int, groups: int, width: int, length: int, taps: int, mode: str, gated: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    taps += mode == "two_sided" and taps % 2 == 0
    channels, total = groups * width, outputs(mode, length, taps)
    u, k = torch.randn(batch, channels, length, dtype=torch.float64), torch.randn(groups, taps, dtype=torch.float64)
    options = {}
    if gated:
        options = {"pregate": torch.randn_like(u), "skip": torch.randn(channels, dtype=torch.float64)}
        options["postgate"] = torch.randn(batch, channels, total, dtype=torch.float64)
    expected = truth(u, k, mode=mode, **options)
    for impl in ("cpu", "torch"):
        error = (fftconv(u, k, mode=mode, impl=impl, **options) - expected).norm()
        assert error <= 1e-13 * (u.norm() * k.norm() + expected.norm())


@settings(max_examples=20, deadline=None)
@given(length=st.integers(2, 300), seed=st.integers(0, 2**16))
def test_convolution_is_linear_and_commutes(length: int, seed: int) -> None:
    torch.manual_seed(seed)
    u, v, k = (torch.randn(1, 1, length, dtype=torch.float64) for _ in range(3))
    a = fftconv(u + 3 * v, k[0])
    b = fftconv(u, k[0]) + 3 * fftconv(v, k[0])
    c = fftconv(k, (u + 3 * v)[0])
    scale = 1e-13 * k.norm() * (u.norm() + 3 * v.norm())
    assert (a - b).norm() <= scale
    assert (a - c).norm() <= scale


def test_two_sided_is_a_pair_of_one_sided_filters(near: Near) -> None:
    u, k = torch.randn(2, 3, 40, dtype=torch.float64), torch.randn(3, 79, dtype=torch.float64)
    c = 39
    forward = fftconv(u, k[:, c:])
    backward = fftconv(u.flip(-1), torch.nn.functional.pad(k[:, :c].flip(-1), (1, 0))).flip(-1)
    near(fftconv(u, k, mode="two_sided"), forward + backward, 1e-13)


def test_the_check_rejects_zeros_and_shifts(near: Near) -> None:
    y = torch.randn(1, 1, 100)
    for wrong in (torch.zeros_like(y), y.roll(1, -1), y * 1.01, torch.full_like(y, float("nan"))):
        with pytest.raises(AssertionError):
            near(wrong, y, 1e-6)
