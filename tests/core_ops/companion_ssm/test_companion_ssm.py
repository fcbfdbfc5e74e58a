"""companion_ssm against closed forms and its definition: kernels, states, loops, gradients, poles of every kind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from farfield.core_ops.companion_ssm import (
    advance,
    closed_loop_factors,
    closed_loop_kernel,
    closed_loop_outputs,
    closed_loop_response,
    companion_kernel,
    companion_scan,
    division,
    krylov,
    last_state,
    loop_coefficients,
    poles,
    rtf_kernel,
)
from farfield.core_ops.companion_ssm.custom import all_pole
from farfield.core_ops.companion_ssm.hankel import hankel
from farfield.core_ops.companion_ssm.reference import (
    all_pole_reference,
    closed_loop_kernel_reference,
    companion_kernel_reference,
    companion_matrix,
    krylov_reference,
)
from farfield.core_ops.errors import DtypeError, KernelUnavailable, ShapeError

ROOT = Path(__file__).resolve().parents[3]
PATHS = {"PYTHONPATH": os.pathsep.join([".typing", os.environ.get("PYTHONPATH", "")])}
SIZES = [(1, 1, 1), (2, 1, 9), (3, 2, 2), (2, 5, 3), (3, 7, 16), (2, 16, 17), (3, 13, 101), (1, 64, 720), (2, 300, 97)]


def normalised(v: Tensor) -> Tensor:
    return v / v.abs().sum(-1, keepdim=True)


def draw(rows: int, d: int, count: int = 3, seed: int = 0) -> list[Tensor]:
    """a of norm 1 and further vectors, float64."""
    g = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(rows, d, generator=g, dtype=torch.float64) for _ in range(count)]
    return [normalised(vectors[0]), *vectors[1:]]


def close(y: Tensor, expected: Tensor, bound: float) -> None:
    """Within the bound, relative to the largest entry; zeros would not be."""
    scale = expected.abs().max()
    assert y.shape == expected.shape
    assert scale > 0
    assert (y.double() - expected.double()).abs().max() <= bound * scale


def seasons(d: int) -> Tensor:
    """Rows of coefficients with poles on the unit circle: an integrator, a season, both mixed, alternating."""
    a = torch.zeros(4, d, dtype=torch.float64)
    a[0, -1] = 1
    a[1, 0] = 1
    a[2, 0] = a[2, -1] = 0.5
    a[3, 0] = -1
    return a


@pytest.mark.parametrize(("rows", "d", "length"), SIZES)
@pytest.mark.parametrize("impl", ["auto", "series", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_kernel_equals_its_definition(rows: int, d: int, length: int, impl: str, dtype: torch.dtype) -> None:
    a, b, c = (x.to(dtype) for x in draw(rows, d))
    k = companion_kernel(a, b, c, length, impl=impl)
    assert k.dtype == dtype
    expected = companion_kernel_reference(a.double(), b.double(), c.double(), length)
    close(k, expected, 1e-12 if dtype == torch.float64 else 2e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("d", [1, 12, 64])
def test_poles_on_the_unit_circle_are_exact(d: int, dtype: torch.dtype) -> None:
    a = seasons(d)
    _, b, c = draw(4, d)
    k = companion_kernel(a.to(dtype), b.to(dtype), c.to(dtype), 900)
    expected = companion_kernel_reference(a, b.to(dtype).double(), c.to(dtype).double(), 900)
    for row in range(4):
        close(k[row], expected[row], 1e-9 if dtype == torch.float64 else 1e-6)


def test_an_integrator_counts_and_two_make_a_ramp() -> None:
    one = torch.ones(1, 1)
    assert torch.equal(companion_kernel(one, one, one, 1000), torch.ones(1, 1000))
    # 1 / (1 - z)^2: a double pole, which the norm does not certify.
    ramp = rtf_kernel(torch.tensor([[1.0, 0.0]]), torch.tensor([[-2.0, 1.0]]), None, 5001)
    close(ramp[0], torch.arange(5001.0), 1e-6)


@pytest.mark.parametrize("radius", [1.01, 1.3, 3.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_unstable_systems_grow_as_the_recurrence_does(radius: float, dtype: torch.dtype) -> None:
    a, b, c = draw(3, 9)
    a = a * radius ** torch.arange(9, 0, -1)
    k = companion_kernel(a.to(dtype), b.to(dtype), c.to(dtype), 60)
    expected = companion_kernel_reference(*(x.to(dtype).double() for x in (a, b, c)), 60)
    # Each entry beside the largest so far.
    assert ((k - expected).abs() <= 1e-6 * expected.abs().cummax(-1).values).all()


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(("d", "terms", "length"), [(1, 1, 40), (5, 40, 40), (40, 3, 41), (70, 70, 50), (64, 64, 5000)])
def test_division_is_the_recurrence(d: int, terms: int, length: int, single: bool) -> None:
    p, x = draw(3, d, 1)[0], draw(3, terms, 2)[1]
    expected = division.recur(x[:, :length], p[:, : length - 1], length)
    close(all_pole_reference(x, p, 20), expected[:, :20], 1e-14)
    close(all_pole(x, p, length, single, "series"), expected, 3e-8 if single else 1e-13)


def test_blocks_of_every_size_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    p, x = 1.05 * draw(3, 40, 1)[0], draw(3, 500, 2)[1]
    expected = division.recur(x, p, 500)
    for least in (16, 32, 256):
        monkeypatch.setattr(division, "LEAST", least)
        monkeypatch.setattr(division, "MOST", least)
        close(division.in_blocks(x, p, 500, False), expected, 1e-12)


def test_leading_dimensions_broadcast() -> None:
    a, b, c, k = draw(3, 6, 4)
    both = closed_loop_kernel(a, b, torch.stack([c, k]), k, 11)
    close(both[1], closed_loop_kernel(a, b, k, k, 11), 1e-12)
    close(companion_kernel(a[0], b, c, 9)[2], companion_kernel_reference(a[0], b[2], c[2], 9), 1e-12)


@pytest.mark.parametrize(("rows", "d", "length"), SIZES[:-1])
def test_krylov_and_closed_loop_equal_products_of_matrices(rows: int, d: int, length: int) -> None:
    a, b, c, k = draw(rows, d, 4)
    b, k = normalised(b), normalised(k)
    close(krylov(a, b, length), krylov_reference(a, b, length), 1e-12)
    expected = closed_loop_kernel_reference(a, b, c, k, length)
    close(closed_loop_kernel(a, b, c, k, length), expected, 1e-10)
    close(closed_loop_kernel(a.float(), b.float(), c.float(), k.float(), length), expected, 1e-6)


def test_a_loop_with_outside_inputs_is_its_recurrence() -> None:
    a, b, c, k, e = draw(3, 6, 5)
    b, k = normalised(b), normalised(k)
    matrix = companion_matrix(a) + b[..., None] * k[:, None]
    z, x0 = torch.randn(3, 20, dtype=torch.float64), draw(3, 6, 2, seed=1)[1]
    kernel = closed_loop_kernel(a, b, c, k, 20)
    response = closed_loop_response(kernel, e[..., None])[:, 0]
    x, expected = x0, []
    for t in range(20):
        expected.append((c * x).sum(-1))
        x = (matrix @ x[..., None])[..., 0] + e * z[:, t, None]
    y = torch.einsum("hdt,hd->ht", kernel, x0)
    y[:, 1:] += torch.stack([(response[:, :t].flip(-1) * z[:, :t]).sum(-1) for t in range(1, 20)], -1)
    close(y, torch.stack(expected, -1), 1e-12)


@pytest.mark.parametrize(("d", "horizon"), [(1, 1), (1, 5), (5, 1), (5, 3), (5, 5), (5, 6), (7, 40)])
# Few states and many take different ways.
@pytest.mark.parametrize("states", [1, 7])
def test_outputs_of_states_are_those_of_the_kernel(d: int, horizon: int, states: int) -> None:
    a, b, c, k = draw(3, d, 4)
    b, k = normalised(b), normalised(k)
    x = torch.randn(3, states, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = x @ closed_loop_kernel_reference(a, b, c, k, horizon)
    close(closed_loop_outputs(x, *closed_loop_factors(a, b, c, k, horizon)), expected, 1e-12)
    single = [v.float() for v in (a, b, c, k)]
    close(closed_loop_outputs(x.float(), *closed_loop_factors(*single, horizon)), expected, 2e-6)


def test_hankel_is_a_view_with_a_gradient_of_any_order() -> None:
    v = draw(2, 9)[1].requires_grad_()
    assert torch.equal(hankel(v, 4), v.unfold(-1, 4, 1))
    assert torch.equal(torch.vmap(lambda x: hankel(x, 4))(v), v.unfold(-1, 4, 1))
    assert torch.autograd.gradcheck(lambda x: hankel(x, 4) ** 2, (v,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: hankel(x, 4) ** 2, (v,), fast_mode=True)


def test_loop_coefficients_have_the_poles_of_the_loop() -> None:
    a, b, k = draw(4, 9)
    matrix = companion_matrix(a) + b[..., None] * k[:, None]
    mine = torch.view_as_complex(poles(loop_coefficients(a, b, k)))
    for row, expected in zip(mine, torch.linalg.eigvals(matrix), strict=True):
        assert (row[:, None] - expected).abs().amin(1).max() < 1e-8


@pytest.mark.parametrize("d", [1, 2, 7, 24])
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_parallel_form_equals_the_steps(d: int, n: int) -> None:
    a, b, c = draw(3, d)
    g = torch.Generator().manual_seed(1)
    u = torch.randn(2, 3, n, generator=g, dtype=torch.float64)
    skip, state = torch.randn(3, generator=g).double(), torch.randn(2, 3, d, generator=g).double()
    y, x = companion_scan(u, a, b, c, skip, state)
    y_steps, x_steps = companion_scan(u, a, b, c, skip, state, form="step")
    close(y, y_steps, 1e-12)
    close(x, x_steps, 1e-12)
    close(companion_scan(u, a, b, c), companion_scan(u, a, b, c, form="step"), 1e-12)
    zero = torch.zeros_like(state)
    close(last_state(u, a, b), companion_scan(u, a, b, c, None, zero, form="step")[1], 1e-12)


@pytest.mark.parametrize("which", ["random", "marginal"])
def test_convolution_equals_ten_thousand_steps_in_float32(which: str) -> None:
    d, n = 12, 10_000
    a = seasons(d) if which == "marginal" else draw(4, d, 1, seed=3)[0]
    _, b, c = draw(4, d, seed=4)
    u = torch.randn(1, 4, n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    single = [x.float() for x in (u, a, b, c)]
    y = companion_scan(*single)
    # Steps in float32 and in float64 side by side; companion_scan itself would be checked at each.
    for dtype in (torch.float32, torch.float64):
        u, a, b, c = (x.to(dtype) for x in single)
        state, outputs = torch.zeros(4, d, dtype=dtype), []
        for t in range(n):
            state = torch.nn.functional.pad(state[:, :-1], (1, 0)) + a * state[:, -1:] + b * u[0, :, t, None]
            outputs.append((c * state).sum(-1))
        for row, steps in enumerate(torch.stack(outputs, -1)):
            close(y[0, row], steps, 1e-5)


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 6, 7, 100, 1001])
@pytest.mark.parametrize("d", [1, 6])
def test_advance_is_a_power_of_the_matrix(d: int, steps: int) -> None:
    a, x = draw(3, d, 2)
    power = torch.linalg.matrix_power(companion_matrix(a), steps)
    close(advance(x, a, steps) + 1, (power @ x[..., None])[..., 0] + 1, 1e-12)
    batch = torch.stack([x, 2 * x])
    close(advance(batch, a, steps)[1] + 1, 2 * (power @ x[..., None])[..., 0] + 1, 1e-12)


# Fewer steps than states, and more than are computed one by one.
@pytest.mark.parametrize("length", [2, pytest.param(18, marks=pytest.mark.slow)])
def test_gradients_of_any_order(length: int) -> None:
    a, b, c, k = (normalised(x).requires_grad_() for x in draw(2, 3, 4))
    for f, given in (
        (lambda a, b, c: companion_kernel(a, b, c, length), (a, b, c)),
        (lambda a, b, c, k: closed_loop_kernel(a, b, c, k, length), (a, b, c, k)),
        (lambda a, b, c, k: closed_loop_outputs(c[:, None], *closed_loop_factors(a, b, c, k, length)), (a, b, c, k)),
    ):
        assert torch.autograd.gradcheck(f, given, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, given, fast_mode=True)
    assert torch.autograd.gradcheck(lambda n, d: rtf_kernel(n, d, None, length), (b, a), fast_mode=True)
    assert torch.autograd.gradcheck(lambda a, b: krylov(a, b, length), (a, b), fast_mode=True)


def test_gradients_of_states() -> None:
    a, b, c = (x.requires_grad_() for x in draw(2, 4))
    u = torch.randn(1, 2, 9, dtype=torch.float64, requires_grad=True)
    state = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(last_state, (u, a, b), fast_mode=True)
    assert torch.autograd.gradcheck(lambda a, b: advance(b, a, 11), (a, b), fast_mode=True)
    assert torch.autograd.gradcheck(lambda *x: companion_scan(*x)[0], (u, a, b, c, None, state), fast_mode=True)


@pytest.mark.parametrize("marginal", [False, True])
def test_float32_gradients_are_those_of_float64(marginal: bool) -> None:
    a, b, c = draw(4, 24)
    a = seasons(24) if marginal else a
    w = torch.randn(4, 1500, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    grads = []
    for dtype in (torch.float64, torch.float32):
        leaves = [x.float().to(dtype).requires_grad_() for x in (a, b, c)]
        grads.append(torch.autograd.grad((companion_kernel(*leaves, 1500) * w.to(dtype)).sum(), leaves))
    for single, double in zip(grads[1], grads[0], strict=True):
        for row in range(4):
            close(single[row], double[row], 2e-6)


def test_everything_compiles_whole_and_the_operator_passes_opcheck() -> None:
    # In a process of its own: the hook that checks shapes cannot be compiled, and stops unknown words before we do.
    script = Path(__file__).parent / "unhooked.py"
    done = subprocess.run([sys.executable, script], cwd=ROOT, env=os.environ | PATHS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["compiled", "checked", "refused"]


def test_wrong_operands_are_refused_with_what_to_do() -> None:
    a, b, c = draw(2, 4)
    with pytest.raises(DtypeError, match=r"a is torch.float16; accepted: float32, float64"):
        companion_kernel(a.half(), b, c, 5)
    with pytest.raises(ShapeError, match="length 0; needed: at least 1"):
        companion_kernel(a, b, c, 0)
    with pytest.raises(KernelUnavailable, match="impl='fast' is not known here; known: auto, "):
        companion_kernel(a, b, c, 5, impl="fast")
