"""fftconv on a GPU, every mode and way of calling it, against float64; skipped without a GPU."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from farfield.core_ops import FFTConv, FilterSpectrum, KernelUnavailable, explain, fftconv
from farfield.core_ops.fftconv.cuda import engine, impl

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = [gpu, pytest.mark.gpu]

MODES = ["causal", "full", "circular", "two_sided"]
BOUNDS = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 2e-3}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """What the kernels forget to write is NaN."""
    torch.manual_seed(0)
    torch.full((128 << 20,), float("nan"), device="cuda")
    yield
    torch.cuda.empty_cache()


def operands(mode: str, length: int, taps: int, dtype: torch.dtype = torch.float32, batch: int = 2) -> list[Tensor]:
    """u, k, pregate, postgate, skip; two channels share a filter."""
    total = length + taps - 1 if mode == "full" else length
    u, pre, post = (torch.randn(batch, 4, n, device="cuda").to(dtype) for n in (length, length, total))
    return [u, torch.randn(2, taps, device="cuda") / taps**0.5, pre, post, torch.randn(4, device="cuda")]


def conv(u: Tensor, k: Any, p: Tensor | None, q: Tensor | None, skip: Tensor | None, **options: Any) -> Tensor:
    """fftconv with its operands in a row."""
    return fftconv(u, k, pregate=p, postgate=q, skip=skip, **options)


def both(given: list[Tensor], **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients by the kernels, and by torch.fft in float64."""
    results = []
    for leaves in (
        [x.detach().clone().requires_grad_() for x in given],
        [x.detach().double().requires_grad_() for x in given],
    ):
        y = conv(*leaves, impl="torch" if results else "cuda", **options)
        torch.manual_seed(1)
        dy = torch.randn(y.shape, device="cuda").to(given[0].dtype)
        results.append([y, *torch.autograd.grad(y, leaves, dy.to(y.dtype))])
    return results[0], results[1]


def error(got: Tensor, want: Tensor) -> float:
    """Relative L2; a zero or unwritten result is 1 or infinite."""
    assert got.shape == want.shape
    distance = ((got.double() - want).norm() / want.norm()).item()
    return distance if distance == distance else float("inf")


def check(given: list[Tensor], **options: Any) -> None:
    """Output and gradients are near float64."""
    bound = BOUNDS[given[0].dtype]
    for name, a, b in zip(("y", "u", "k", "pre", "post", "skip"), *both(given, **options), strict=True):
        assert a.is_contiguous()
        assert error(a, b) < (3e-6 if name in ("k", "skip") else bound * (3 if bound < 1e-5 and name != "y" else 1)), (
            name
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize(("length", "taps"), [(1, 1), (131, 65), (256, 301), (1000, 1001), (2048, 2049)])
def test_every_mode_and_its_gradients(mode: str, dtype: torch.dtype, length: int, taps: int) -> None:
    check(operands(mode, length, taps, dtype), mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("length", "taps"), [(16384, 101), (20000, 20001), (65536, 65537)])
def test_long_rows_of_every_mode(mode: str, length: int, taps: int) -> None:
    check(operands(mode, length, taps, torch.bfloat16, batch=1), mode=mode)


@pytest.mark.parametrize("length", [128, 512, 1024, 4096, 8192, 16384, 32768, 131072])
def test_circular_kernels_of_every_size(length: int) -> None:
    check(operands("circular", length, length), mode="circular")


@pytest.mark.parametrize("kind", ["normal", "pink", "dc", "spike"])
@pytest.mark.parametrize("mode", ["full", "circular"])
def test_hard_inputs(mode: str, kind: str) -> None:
    length = 3000
    given = operands(mode, length, length)
    if kind == "dc":
        given[0] += 30
    elif kind == "spike":
        given[0][..., length // 3] = 1e4
    elif kind == "pink":
        f = torch.arange(1, length // 2 + 2, device="cuda").rsqrt()
        given[0] = torch.fft.irfft(torch.fft.rfft(given[0]) * f, length)
    check(given, mode=mode)


@pytest.mark.parametrize("mode", ["causal", "two_sided"])
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
def test_packed_sequences(mode: str, dtype: torch.dtype) -> None:
    given = operands(mode, 3000, 701, dtype)
    seq_idx = torch.zeros(2, 3000, dtype=torch.int64, device="cuda")
    for row, cuts in enumerate(([1, 2, 150, 151, 2400], [1023])):
        for cut in cuts:
            seq_idx[row, cut:] += 1
    check(given, mode=mode, seq_idx=seq_idx)
    poison = given[0].clone()
    poison[0, :, 151:2400] = float("nan")
    y, clean = (conv(u, *given[1:], mode=mode, seq_idx=seq_idx) for u in (poison, given[0]))
    assert torch.equal(y[0, :, :151], clean[0, :, :151])
    assert torch.equal(y[0, :, 2400:], clean[0, :, 2400:])


@pytest.mark.parametrize("mode", ["causal", "two_sided"])
def test_long_and_many_packed_sequences(mode: str) -> None:
    given = operands(mode, 30000, 9001, torch.bfloat16)
    seq_idx = torch.zeros(2, 30000, dtype=torch.int32, device="cuda")
    for cut in (1, 5000, 26000, 26007):
        seq_idx[0, cut:] += 1
    seq_idx[1] = torch.arange(30000, device="cuda") // 500
    check(given, mode=mode, seq_idx=seq_idx)


@pytest.mark.parametrize("mode", MODES)
def test_layouts_strides_and_mixed_dtypes(mode: str) -> None:
    u, k, pre, post, skip = operands(mode, 700, 301)
    turned = [x.transpose(1, 2).contiguous() for x in (u, pre, post)]
    y = fftconv(turned[0], k, mode=mode, pregate=turned[1], postgate=turned[2], skip=skip, layout="blh", impl="cuda")
    want = conv(*(x.double() for x in (u, k, pre, post, skip)), mode=mode)
    assert y.is_contiguous()
    assert error(y.transpose(1, 2), want) < 1e-6
    wide = torch.randn(2, 4, 1400, device="cuda")
    for v in (wide[..., ::2], wide[:, :1, :700].expand(2, 4, 700), wide[..., 3:703], u.bfloat16()):
        want = conv(*(x.double() for x in (v, k, pre, post, skip)), mode=mode)
        assert error(conv(v, k, pre, post, skip, mode=mode, impl="cuda"), want) < BOUNDS[v.dtype]


@pytest.mark.parametrize("length", [4096, 20000, 32768])
def test_fp16_is_as_exact_as_its_output(length: int) -> None:
    given = operands("causal", length, length, torch.float16)
    want = conv(*(x.double() for x in given))
    assert error(conv(*given, impl="cuda"), want) < 1.05 * error(want.half(), want)


def test_auto_takes_the_kernels_and_explains_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given, ran = operands("full", 300, 301), []
    run = engine.by_kernels
    monkeypatch.setattr(engine, "by_kernels", lambda *a, **o: (ran.append(a[0].shape), run(*a, **o))[1])
    conv(*given, mode="full")
    assert ran == [(2, 4, 600)]
    assert explain(given[0], given[1], mode="full").impl == "cuda"
    assert "FFT of 1,024" in str(explain(given[0], given[1], mode="full"))
    double = [x.double() for x in given]
    assert explain(double[0], double[1]).impl == "torch"


def test_transforms_and_higher_gradients_go_to_torch() -> None:
    u, k, pre, post, skip = operands("causal", 50, 50)
    many = torch.stack([u, 2 * u])
    y = torch.func.vmap(lambda v: conv(v, k, pre, post, skip))(many)
    assert error(y, torch.stack([conv(v, k, pre, post, skip, impl="torch") for v in many]).double()) < 1e-6
    _, tangent = torch.func.jvp(lambda v: conv(v, k, pre, post, skip), (u,), (u,))
    assert error(tangent, conv(u, k, pre, post, skip, impl="torch").double()) < 1e-6
    with pytest.raises(KernelUnavailable, match="impl='torch'"):
        torch.func.vmap(lambda v: conv(v, k, pre, post, skip, impl="cuda"))(many)

    def twice(impl: str, *leaves: Tensor) -> tuple[Tensor, ...]:
        y = conv(*leaves, impl=impl)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    given = [x.clone().requires_grad_() for x in (u, k, pre, post, skip)]
    exact = [x.detach().double().requires_grad_() for x in given]
    for a, b in zip(twice("cuda", *given), twice("torch", *exact), strict=True):
        assert error(a, b) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_operators_pass_opcheck(mode: str) -> None:
    given = operands(mode, 130, 131)
    leaves = tuple(x.requires_grad_() for x in given)
    torch.library.opcheck(impl.conv_cuda, (*leaves, None, mode))
    plain = tuple(x.detach() for x in leaves)
    torch.library.opcheck(impl.conv_cuda_backward, (torch.randn_like(plain[3]), *plain, None, mode))
    if mode in ("causal", "two_sided"):
        seq_idx = (torch.arange(130, device="cuda") // 60).expand(2, 130).contiguous()
        torch.library.opcheck(impl.conv_cuda, (*leaves, seq_idx, mode))


def test_it_compiles_whole_with_dynamic_shapes() -> None:
    """In a process of its own: the checks of shapes that tests run under cannot be compiled."""
    root, script = Path(__file__).resolve().parents[3], Path(__file__).with_name("compiled_cuda.py")
    path = os.pathsep.join([str(root / ".typing"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 compiled" in done.stdout


@pytest.mark.parametrize("mode", MODES)
def test_cuda_graphs_replay_both_directions(mode: str) -> None:
    given = [x.requires_grad_() for x in operands(mode, 700, 301, torch.bfloat16)]
    dy = torch.randn_like(given[3])

    def both_ways() -> list[Tensor]:
        y = conv(*given, mode=mode, impl="cuda")
        return [y.detach(), *torch.autograd.grad(y, given, dy)]

    want, graph, stream = both_ways(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph, stream=stream):
        captured = both_ways()
    for x in captured:
        x.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    for a, b in zip(captured, want, strict=True):
        assert torch.equal(a, b)


def test_a_packed_call_is_not_captured() -> None:
    u, k, *_ = operands("causal", 300, 301)
    seq_idx = torch.zeros(2, 300, dtype=torch.int64, device="cuda")
    with pytest.raises(KernelUnavailable, match="CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        fftconv(u, k, seq_idx=seq_idx, impl="cuda")
    torch.cuda.synchronize()


def test_checkpoints_autocast_eval_and_other_streams() -> None:
    given = [x.requires_grad_() for x in operands("causal", 700, 701)]
    want = torch.autograd.grad(conv(*given).sum(), given)
    y = checkpoint(conv, *given, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(y.sum(), given), want, strict=True))
    with torch.autocast("cuda", torch.bfloat16):
        y = conv(*given)
    assert y.dtype == torch.float32
    assert torch.equal(y, conv(*given))
    layer = FFTConv(4, 700, device="cuda").eval()
    layer(given[0]).sum().backward()
    assert layer.k.grad is not None
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        z = conv(*given)
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(z, y)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize("length", [100, 1000, 4096, 16384, 20000])
def test_kept_spectra_serve_and_are_never_stale(mode: str, dtype: torch.dtype, length: int) -> None:
    u, k, pre, post, skip = operands(mode, length, length // 2 * 2 - 1, dtype)
    kept = FilterSpectrum(k)

    def near() -> None:
        want = conv(*(x.double() for x in (u, k, pre, post, skip)), mode=mode)
        assert error(conv(u, kept, pre, post, skip, mode=mode), want) < BOUNDS[dtype]

    near()
    first = next(iter(kept.kept.values()))
    assert first
    near()
    assert next(iter(kept.kept.values())) is first
    k.mul_(-2)
    near()
    skip.add_(1)
    near()


@torch.no_grad()
def test_a_module_keeps_its_spectrum_and_streams() -> None:
    layer = FFTConv(4, 900, groups=2, device="cuda").eval()
    u = torch.randn(2, 4, 2000, device="cuda")
    want = fftconv(u.double(), layer.k.double(), skip=layer.skip.double(), impl="torch")
    for _ in range(2):
        assert error(layer(u), want) < 1e-6
    assert layer.kept
    layer.k.data.mul_(2)
    layer.forget()
    assert error(layer(u), fftconv(u.double(), layer.k.double(), skip=layer.skip.double(), impl="torch")) < 1e-6
    _, state = layer.prefill(u[..., :1500])
    steps = [layer.step(u[..., t], state) for t in range(1500, 1510)]
    assert error(torch.stack(steps, -1), layer(u)[..., 1500:1510].double()) < 1e-5


def test_unaligned_rows_and_shared_memory_of_other_sizes() -> None:
    base = torch.randn(3, 4, 4200, device="cuda").bfloat16()
    for first, length in ((1, 4096), (3, 1000), (8, 4001)):
        u = base[..., first : first + length]
        k = torch.randn(4, length, device="cuda") / length**0.5
        want = fftconv(u.double(), k.double(), impl="torch")
        assert error(fftconv(u, k, impl="cuda"), want) < 2e-3
