"""fftconv as an operator: higher gradients, torch.func, opcheck, compile, autocast, errors, bounds."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from farfield.core_ops import DtypeError, KernelUnavailable, ShapeError, explain, fftconv
from farfield.core_ops.fftconv import cpu, crew, plans, set_scratch_bytes
from farfield.core_ops.fftconv.call import check
from farfield.core_ops.fftconv.custom import conv, conv_dk
from farfield.core_ops.fftconv.op import REGISTRY
from tests.golden import golden

Near = Callable[[Tensor, Tensor, float], None]
MODES = ["causal", "full", "circular", "two_sided"]


def operands(
    mode: str = "causal",
    length: int = 6,
    taps: int = 5,
    dtype: torch.dtype = torch.float64,
    rows: tuple[int, int] = (2, 4),
) -> list[Tensor]:
    """u, k, pregate, postgate, skip; two channels share a filter."""
    torch.manual_seed(1)
    total = length + taps - 1 if mode == "full" else length
    shapes = [(*rows, length), (rows[1] // 2, taps), (*rows, length), (*rows, total), (rows[1],)]
    return [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]


def gated(u: Tensor, k: Tensor, p: Tensor, q: Tensor, skip: Tensor, **options: Any) -> Tensor:
    """fftconv with its operands in a row."""
    return fftconv(u, k, pregate=p, postgate=q, skip=skip, **options)


@pytest.mark.parametrize("impl", ["reference", "torch", "cpu"])
@pytest.mark.parametrize("mode", MODES)
def test_gradcheck_and_gradgradcheck(impl: str, mode: str) -> None:
    given = operands(mode, length=3, taps=3, rows=(1, 2))
    f = partial(gated, mode=mode, impl=impl)
    assert torch.autograd.gradcheck(f, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, given, fast_mode=True)


def test_gradgradcheck_of_packed_and_turned() -> None:
    u, k, p, _, skip = operands(length=5)
    seq_idx = torch.tensor([[0, 0, 1, 1, 1], [3, 3, 3, 3, 3]])
    f = lambda u, k, p, s: fftconv(u, k, pregate=p, postgate=p, skip=s, seq_idx=seq_idx, mode="two_sided")  # noqa: E731
    assert torch.autograd.gradgradcheck(f, (u, k, p, skip), fast_mode=True)
    turned = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (u, p)]
    g = lambda u, k, p, s: fftconv(u, k, pregate=p, skip=s, layout="blh")  # noqa: E731
    assert torch.autograd.gradgradcheck(g, (turned[0], k, turned[1], skip), fast_mode=True)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_jvp_and_vmap(impl: str, near: Near) -> None:
    given = [x.detach() for x in operands()]
    f = partial(gated, impl=impl)
    tangents = [torch.randn_like(x) for x in given]
    _, ours = torch.func.jvp(f, tuple(given), tuple(tangents))
    step = 1e-6
    up, down = ([x + s * step * t for x, t in zip(given, tangents, strict=True)] for s in (1, -1))
    near(ours, (f(*up) - f(*down)) / (2 * step), 1e-8)
    many = torch.stack([given[0], 2 * given[0] + 1, -given[0]])
    y = torch.func.vmap(lambda u: f(u, *given[1:]))(many)
    near(y, torch.stack([f(u, *given[1:]) for u in many]), 1e-13)
    filters = torch.stack([given[1], given[1].flip(-1)])
    y = torch.func.vmap(lambda k: f(given[0], k, *given[2:]))(filters)
    near(y, torch.stack([f(given[0], k, *given[2:]) for k in filters]), 1e-13)


@pytest.mark.parametrize("blh", [False, True])
def test_opcheck(blh: bool) -> None:
    u, k, p, q, skip = operands(dtype=torch.float32)
    u, p, q = (x.detach().transpose(1, 2).contiguous().requires_grad_() if blh else x for x in (u, p, q))
    seq_idx = torch.tensor([[0, 0, 1, 1, 1, 1]] * 2)
    torch.library.opcheck(conv, (u, k, p, q, skip, None, 0, 6, 0, False, blh, False))
    torch.library.opcheck(conv, (u, k, None, None, None, seq_idx, 0, 6, 0, False, blh, False))
    torch.library.opcheck(conv_dk, (q, u, p, None, None, 2, 5, 0, 0, blh, False))


def test_compiles_whole_with_dynamic_shapes() -> None:
    """In a process of its own: the checks of shapes that tests run under cannot be compiled."""
    root = Path(__file__).resolve().parents[3]
    script = Path(__file__).with_name("compiled.py")
    path = os.pathsep.join([str(root / ".typing"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 compiled" in done.stdout


@pytest.mark.parametrize("impl", ["reference", "torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_autocast_casts_nothing(impl: str, dtype: torch.dtype) -> None:
    u, k, p, q, skip = (x.detach().to(dtype) for x in operands(length=65, taps=65))
    with torch.autocast("cpu", torch.bfloat16):
        y = gated(u, k.float(), p, q, skip, impl=impl)
    assert y.dtype == dtype
    assert torch.equal(y, gated(u, k.float(), p, q, skip, impl=impl))


@pytest.mark.parametrize("impl", ["reference", "torch", "cpu"])
def test_a_16_bit_filter_gets_its_gradient_in_its_own_dtype(impl: str, near: Near) -> None:
    u, k = torch.randn(2, 4, 60), torch.randn(4, 60).bfloat16().requires_grad_()
    exact = k.detach().double().requires_grad_()
    fftconv(u, k, impl=impl).sum().backward()
    fftconv(u.double(), exact, impl=impl).sum().backward()
    assert k.grad is not None
    assert exact.grad is not None
    assert k.grad.dtype == torch.bfloat16
    near(k.grad, exact.grad, 5e-3)


def test_filter_gradients_are_the_same_each_time() -> None:
    u, k = torch.randn(3, 5, 40000), torch.randn(5, 40000, requires_grad=True)
    first, second = (torch.autograd.grad(fftconv(u, k).square().sum(), k)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("case", range(5))
def test_golden_vectors(case: int, near: Near) -> None:
    vectors, facts = golden("hyenadna", "fftconv")
    assert len(facts["cases"]) == 5
    v = {name.split(".", 1)[1]: x for name, x in vectors.items() if name.startswith(f"{case}.")}
    u, k, skip = (v[name].double().requires_grad_() for name in ("u", "k", "D"))
    y = fftconv(u, k, skip=skip)
    near(y, v["y_f64"], 1e-9)
    grads = torch.autograd.grad(y, (u, k, skip), v["cotangent"].double())
    for ours, name in zip(grads, ("du_f64", "dk_f64", "dD_f64"), strict=True):
        near(ours, v[name], 1e-9)
    near(fftconv(v["u"], v["k"], skip=v["D"]), v["y_f64"], 1e-6)
    near(v["y"], v["y_f64"], 5e-4)


@pytest.mark.parametrize("case", [0, 1, 3, 4])
def test_golden_bidirectional_is_a_delayed_circular_convolution(case: int, near: Near) -> None:
    """The official code pads u by L / 2 on each side and keeps an FFT of 2 L; even L only."""
    vectors, _ = golden("hyenadna", "fftconv")
    u, k, skip, y = (vectors[f"{case}.{name}"].double() for name in ("u", "k", "D", "y_bidir"))
    length = u.shape[-1]
    padded = torch.nn.functional.pad(u, (length // 2, length // 2))
    near(fftconv(padded, k, mode="circular")[..., :length] + skip[:, None] * u, y, 2e-6)


def test_scratch_stays_under_its_bound(near: Near) -> None:
    former = set_scratch_bytes(8 << 20)
    try:
        u, k = torch.randn(1, 1, 160_001), torch.randn(1, 160_001) / 400
        plan = explain(u, k)
        assert plan.plan == "split"
        assert plan.scratch_bytes <= 8 << 20
        gate, skip = torch.randn(1, 1, 160_001), torch.randn(1)
        k.requires_grad_()
        y = fftconv(u, k, pregate=gate, postgate=gate, skip=skip)
        (dk,) = torch.autograd.grad(y, k, gate)
    finally:
        set_scratch_bytes(former)
    expected = fftconv(u, k, pregate=gate, postgate=gate, skip=skip, impl="torch")
    near(y, expected, 1e-6)
    near(dk, torch.autograd.grad(expected, k, gate)[0], 5e-6)
    with pytest.raises(ValueError, match="8 MiB"):
        set_scratch_bytes(1)


@pytest.mark.parametrize("length", [1 << 12, 1 << 17, 1 << 20, 1 << 22])
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("taps", [3, 1000, None])
def test_no_plan_exceeds_the_bound(length: int, rows: int, taps: int | None) -> None:
    u, k = torch.empty(1, rows, 1).expand(1, rows, length), torch.empty(rows, 1).expand(rows, taps or length)
    for dtype in (torch.float32, torch.float64):
        plan = explain(u[..., :1].to(dtype).expand(u.shape), k[:, :1].to(dtype).expand(k.shape))
        assert plan.scratch_bytes <= plans.scratch_bytes


def test_the_callers_threads_are_kept() -> None:
    threads = torch.get_num_threads()
    fftconv(torch.randn(1, 4, 1 << 17), torch.randn(4, 1 << 17))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same(threads: int, near: Near) -> None:
    u, k = torch.randn(2, 3, 50_000), torch.randn(3, 50_000)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = fftconv(u, k)
    finally:
        torch.set_num_threads(before)
    near(y, fftconv(u.double(), k.double(), impl="torch"), 1e-6)


def test_slow_allocation_loses_no_block(monkeypatch: pytest.MonkeyPatch, near: Near) -> None:
    """Workers that first ask for a shared buffer at the same time must not each get their own."""
    allocate = torch.empty

    def slow(*args: Any, **kwargs: Any) -> Tensor:
        y = allocate(*args, **kwargs)
        time.sleep(0.005)
        return y

    u, k = torch.randn(1, 1, 1 << 18), torch.randn(1, 1 << 18, requires_grad=True)
    expected = fftconv(u.double(), k.double(), impl="torch")
    exact = torch.autograd.grad(expected, k, u.double())[0]
    monkeypatch.setattr(crew.torch, "empty", slow)
    for _ in range(3):
        y = fftconv(u, k)
        near(y, expected, 1e-6)
        near(torch.autograd.grad(y, k, u)[0], exact, 2e-6)


def test_explain_names_the_plan() -> None:
    def of(length: int, taps: int, **options: Any) -> str:
        return explain(torch.empty(1, 1, length), torch.empty(1, taps), **options).plan

    assert of(1 << 20, 1 << 20) == "right_angle"
    assert of(1 << 20, 4096) == "blocks"
    assert of(1000, 3) == "taps"
    assert of(1000, 1000) == "rfft"
    assert of(10, 10, impl="reference") == "definition"
    line = str(explain(torch.empty(1, 1, 1 << 20), torch.empty(1, 1 << 20)))
    assert "right_angle" in line
    assert "1,048,576" in line
    assert "2 packed" in str(explain(torch.empty(1, 1, 4), torch.empty(1, 4), seq_idx=torch.tensor([[0, 0, 1, 1]])))


def test_the_plan_that_is_explained_is_the_plan_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, taps in ((1 << 17, 1 << 17), (20000, 500), (500, 5), (700, 700)):
        u, k, ran = torch.randn(1, 1, length), torch.randn(1, taps), []
        at_once = cpu.convolve_at_once
        monkeypatch.setattr(cpu, "convolve_at_once", lambda *a, ran=ran, run=at_once: (ran.append("rfft"), run(*a)))
        for kind, run in list(cpu.RUNNERS.items()):
            monkeypatch.setitem(cpu.RUNNERS, kind, lambda *a, kind=kind, run=run, ran=ran: (ran.append(kind), run(*a)))
        fftconv(u, k)
        monkeypatch.undo()
        assert ran == [explain(u, k).plan]


def test_the_automatic_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    REGISTRY.logged.clear()
    with caplog.at_level(logging.INFO, logger="farfield.core_ops"):
        for _ in range(3):
            fftconv(torch.randn(1, 1, 8), torch.randn(1, 8))
    assert [r.message for r in caplog.records] == ["fftconv: impl='auto' takes 'cpu'"]


def test_unavailable_implementations_say_what_to_do() -> None:
    u, k = torch.randn(1, 1, 8), torch.randn(1, 8)
    with pytest.raises(KernelUnavailable, match="known: auto, cpu"):
        fftconv(u, k, impl="warp")
    with pytest.raises(KernelUnavailable, match="GPU kernel; take precision='auto'"):
        fftconv(u, k, precision="fp16x")
    with pytest.raises(KernelUnavailable, match="u is on meta"):
        fftconv(u.to("meta"), k.to("meta"), impl="cpu")


def refused(**changes: Any) -> None:
    given: dict[str, Any] = {
        "u": torch.zeros(2, 4, 8), "k": torch.zeros(4, 8), "mode": "causal", "pregate": None, "postgate": None,
        "skip": None, "seq_idx": None, "precision": "auto", "layout": "bhl",
    }  # fmt: skip
    check(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"u": torch.zeros(4, 8)}, ShapeError, r"\(4, 8\).*\(B, H, L\)"),
        ({"k": torch.zeros(3, 8)}, ShapeError, "G dividing H=4"),
        ({"k": torch.zeros(8)}, ShapeError, r"k has shape \(8,\)"),
        ({"mode": "two_sided"}, ShapeError, "odd"),
        ({"pregate": torch.zeros(2, 4, 7)}, ShapeError, "pregate"),
        ({"postgate": torch.zeros(2, 4, 8), "mode": "full"}, ShapeError, "all L \\+ Lk - 1"),
        ({"skip": torch.zeros(3)}, ShapeError, "skip"),
        ({"seq_idx": torch.zeros(2, 8).long(), "mode": "full"}, ShapeError, "accepted: causal, two_sided"),
        ({"seq_idx": torch.zeros(2, 8).long(), "mode": "circular"}, ShapeError, "accepted: causal, two_sided"),
        ({"seq_idx": torch.zeros(2, 7).long()}, ShapeError, "seq_idx"),
        ({"seq_idx": torch.zeros(2, 8)}, DtypeError, "integer"),
        ({"u": torch.zeros(2, 4, 8).int()}, DtypeError, "float32, float16"),
        ({"k": torch.zeros(4, 8, dtype=torch.complex64)}, DtypeError, "k is torch.complex64"),
        ({"k": torch.zeros(4, 8, device="meta")}, DtypeError, "k is on meta"),
        ({"u": torch.zeros(2, 4, 8).double(), "precision": "fp32"}, DtypeError, "cast both"),
    ],
)  # fmt: skip
def test_errors_say_what_came_and_what_is_accepted(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        refused(**changes)


def test_precisions(near: Near) -> None:
    u, k = torch.randn(1, 2, 3000), torch.randn(2, 3000)
    exact = fftconv(u.double(), k.double(), impl="torch")
    near(fftconv(u, k, precision="fp64"), exact, 1e-7)
    near(fftconv(u, k, precision="fp32"), exact, 1e-6)
    assert fftconv(u, k.double()).dtype == torch.float32
    near(fftconv(u, k.double()), exact, 1e-7)
