"""The banded, tridiagonal and almost-block-diagonal solves equal the dense solve, with all their gradients."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from farfield.core_ops.banded import almost_block_diagonal_solve, banded_solve, blocks, tridiagonal, tridiagonal_solve
from farfield.core_ops.banded.reference import (
    banded_solve_reference,
    dense_from_bands,
    dense_from_blocks,
    tridiagonal_solve_reference,
)
from farfield.core_ops.errors import DomainError, DtypeError, ShapeError
from tests.golden import golden

ABD = ["abd_random_N4_r3", "abd_random_N8_r3", "abd_random_N5_r5"]
# For dominant matrices.
EPS = {torch.float64: 1e-13, torch.float32: 1e-5}


def _random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _error(x: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 0
    return ((x.double() - expected.double()).norm() / expected.double().norm()).item()


def _backward_error(a: Tensor, x: Tensor, rhs: Tensor) -> float:
    """Smallest relative change of A that makes x exact, in units of the dtype's rounding."""
    assert x.norm() > 0
    residual = a.double() @ x.double() - rhs.double()
    return (residual.norm() / (a.double().norm() * x.double().norm()) / torch.finfo(x.dtype).eps).item()


def _tridiagonal(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    # Strictly diagonally dominant.
    lower, upper = (_random(*shape[:-1], shape[-1] - 1, dtype=dtype, seed=i).tanh() for i in (1, 2))
    return lower, 2.5 + _random(*shape, dtype=dtype, seed=3).sigmoid(), upper


def _golden_blocks(t: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    coll, cont = t["coll"], t["cont"]
    s = coll.shape[-1]
    rows = torch.cat([torch.nn.functional.pad(coll[:-1], (0, s)), cont], 1)
    return t["top"], rows, torch.cat([coll[-1], t["bottom"]])


@pytest.mark.parametrize("way", ["rows one by one", "all rows at once"])
@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("shape", [(1,), (2,), (3, 5), (2, 3, 17), (64,)])
def test_tridiagonal_solve_equals_the_dense_one(
    shape: tuple[int, ...], dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tridiagonal, "REDUCTION_SYSTEMS", 0 if way == "rows one by one" else 10**9)
    matrix = _tridiagonal(*shape, dtype=dtype)
    rhs = _random(*shape, dtype=dtype, seed=4)
    expected = tridiagonal_solve_reference(*(x.double() for x in matrix), rhs.double())
    assert _error(tridiagonal_solve(*matrix, rhs), expected) < EPS[dtype]


@pytest.mark.parametrize("systems", [0, 10**9])
def test_one_matrix_serves_many_right_hand_sides(systems: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tridiagonal, "REDUCTION_SYSTEMS", systems)
    matrix = _tridiagonal(3, 1, 11)
    rhs = _random(3, 7, 22, seed=5)[..., ::2]
    wide = [x.expand(3, 7, x.shape[-1]) for x in matrix]
    assert _error(tridiagonal_solve(*matrix, rhs), tridiagonal_solve_reference(*wide, rhs)) < 1e-14
    flat = [x[0, 0] for x in matrix]
    leaves = [x.clone().requires_grad_() for x in (*flat, rhs)]
    assert torch.autograd.gradcheck(tridiagonal_solve, leaves)


@pytest.mark.parametrize("systems", [0, 10**9])
def test_tridiagonal_gradients_to_the_second_order(systems: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tridiagonal, "REDUCTION_SYSTEMS", systems)
    leaves = [x.requires_grad_() for x in (*_tridiagonal(2, 5), _random(2, 5, seed=9))]
    assert torch.autograd.gradcheck(tridiagonal_solve, leaves)
    assert torch.autograd.gradgradcheck(tridiagonal_solve, leaves)


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize(
    ("n", "lower", "upper"),
    [(1, 0, 0), (5, 0, 0), (2, 1, 1), (3, 2, 2), (40, 1, 1), (53, 3, 2), (97, 0, 4), (61, 5, 0)],
)
def test_banded_solve_equals_the_dense_one(n: int, lower: int, upper: int, dtype: torch.dtype) -> None:
    bands = _random(2, 3, lower + upper + 1, n, dtype=dtype, seed=n)
    # Random triangular matrices are ill-conditioned beyond measure.
    if 0 in (lower, upper):
        bands[..., upper, :] += 4 * bands[..., upper, :].sign()
    outside = dense_from_bands(torch.ones_like(bands), lower, upper).sum()
    rhs = _random(2, 3, n, 4, dtype=dtype, seed=1)
    assert _backward_error(dense_from_bands(bands, lower, upper), banded_solve(bands, rhs, lower, upper), rhs) < 8
    # What lies outside the matrix is not read.
    assert outside < bands.numel() or lower + upper == 0
    poisoned = bands.clone()
    for d in range(lower + upper + 1):
        shift = d - upper
        poisoned[..., d, n - max(shift, 0) :] = torch.nan
        poisoned[..., d, : max(-shift, 0)] = torch.nan
    assert torch.equal(banded_solve(poisoned, rhs, lower, upper), banded_solve(bands, rhs, lower, upper))


def test_pivots_where_elimination_without_them_fails() -> None:
    n = 50
    bands = _random(3, n, seed=1)
    bands[1] = 0
    rhs = _random(n, 1)
    expected = banded_solve_reference(bands, rhs, 1, 1)
    assert _error(banded_solve(bands, rhs, 1, 1), expected) < 1e-12
    plain = tridiagonal_solve(bands[2, :-1], bands[1], bands[0, 1:], rhs[:, 0])
    assert not plain.isfinite().any()


def test_banded_gradients_to_the_second_order() -> None:
    bands, rhs = _random(2, 4, 7, seed=3).requires_grad_(), _random(7, 2, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: banded_solve(a, b, 2, 1), (bands, rhs))
    assert torch.autograd.gradgradcheck(lambda a, b: banded_solve(a, b, 2, 1), (bands, rhs))


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize(
    ("m", "o", "s", "count"), [(1, 2, 3, 4), (0, 3, 2, 5), (3, 3, 1, 6), (2, 4, 5, 0), (1, 4, 4, 9)]
)
def test_blocks_equal_the_dense_solve(m: int, o: int, s: int, count: int, dtype: torch.dtype) -> None:
    shapes = ((2, m, o), (2, count, s, s + o), (2, o - m, o))
    parts = [_random(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]
    rhs = _random(2, count * s + o, 3, dtype=dtype, seed=8)
    assert _backward_error(dense_from_blocks(*parts), almost_block_diagonal_solve(*parts, rhs), rhs) < 8


def test_blocks_gradients_to_the_second_order() -> None:
    parts = [_random(1, 3), _random(2, 3, 2, 5, seed=1), _random(2, 3, seed=2), _random(2, 9, 1, seed=3)]
    leaves = [x.requires_grad_() for x in parts]
    assert torch.autograd.gradcheck(almost_block_diagonal_solve, leaves)
    assert torch.autograd.gradgradcheck(almost_block_diagonal_solve, leaves)


@pytest.mark.parametrize("name", ABD)
def test_golden_systems_are_solved_to_forty_digits_truth(name: str) -> None:
    t, _ = golden("graphspline", name)
    parts = [x.clone().requires_grad_() for x in _golden_blocks(t)]
    rhs = t["b"].clone().requires_grad_()
    assert torch.equal(dense_from_blocks(*_golden_blocks(t)), t["A"])
    x = almost_block_diagonal_solve(*parts, rhs)
    assert (x - t["x_mpmath40"]).abs().max() < 1e-14
    # The official "colrow" is conjugate gradients on a matrix that is not symmetric: wrong, so not matched.
    assert (t["x_reference_colrow_WRONG"] - t["x_mpmath40"]).abs().max() > 1e-2
    grads = torch.autograd.grad(x, [*parts, rhs], t["cotangent"])
    assert (grads[3] - t["grad_b"]).abs().max() < 1e-13
    # The golden gradient is that of the entries that the official builder fills.
    filled = t["A"] != 0
    assert (dense_from_blocks(*grads[:3]) - t["grad_A_pattern"])[filled].abs().max() < 1e-13


def test_golden_positive_definite_system_as_one_band() -> None:
    t, _ = golden("graphspline", "colrow_spd")
    a = t["A"]
    n = len(a)
    bands = torch.stack([torch.nn.functional.pad(a.diagonal(u), (max(u, 0), max(-u, 0))) for u in range(n - 1, -n, -1)])
    assert (banded_solve(bands, t["b"], n - 1, n - 1) - t["x_mpmath40"]).abs().max() < 1e-13


def test_operators_pass_opcheck() -> None:
    leaves = tuple(x.T.contiguous().requires_grad_() for x in (*_tridiagonal(2, 5), _random(2, 5)))
    torch.library.opcheck(tridiagonal.solve, leaves)
    parts = (_random(1, 3), _random(3, 2, 5, seed=1), _random(2, 3, seed=2))
    torch.library.opcheck(blocks.factor, parts)
    factors = blocks.factor(*parts)
    grads = tuple(x.clone().requires_grad_() for x in (*parts, _random(9, 1, seed=3)))
    for transposed in (False, True):
        torch.library.opcheck(blocks.solve, (*grads, factors, transposed))


def test_compiles_whole() -> None:
    """In a process of its own: the checks of shapes that tests run under cannot be compiled."""
    root = Path(__file__).parents[3]
    script = Path(__file__).with_name("compiled.py")
    paths = os.pathsep.join([str(root / ".typing"), str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert "3 compiled" in done.stdout


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: banded_solve(torch.ones(3, 5), torch.ones(5, 1), 1, 2), ShapeError, "lower \\+ upper \\+ 1"),
        (lambda: banded_solve(torch.ones(3, 5), torch.ones(4, 1), 1, 1), ShapeError, "rows"),
        (lambda: banded_solve(torch.ones(3, 5), torch.ones(5), 1, 1), ShapeError, "needed"),
        (lambda: banded_solve(torch.ones(3, 5), torch.ones(5, 1).double(), 1, 1), DtypeError, "float64"),
        (lambda: banded_solve(torch.zeros(3, 5), torch.ones(5, 1), 1, 1), DomainError, "singular"),
        (lambda: banded_solve(torch.full((3, 5), torch.nan), torch.ones(5, 1), 1, 1), DomainError, "NaN"),
        (lambda: banded_solve(torch.ones(2, 3, 5), torch.ones(3, 5, 1), 1, 1), ShapeError, "broadcast"),
        (
            lambda: tridiagonal_solve(torch.ones(4), torch.ones(4), torch.ones(3), torch.ones(4)),
            ShapeError,
            "n - 1, n, n - 1",
        ),
        (
            lambda: tridiagonal_solve(torch.ones(2, 3), torch.ones(3, 4), torch.ones(3), torch.ones(4)),
            ShapeError,
            "broadcast",
        ),
        (
            lambda: tridiagonal_solve(*(torch.ones(k, dtype=torch.float16) for k in (3, 4, 3, 4))),
            DtypeError,
            "float16",
        ),
        (
            lambda: almost_block_diagonal_solve(
                torch.ones(1, 3), torch.ones(2, 2, 4), torch.ones(2, 3), torch.ones(7, 1)
            ),
            ShapeError,
            "s \\+ o",
        ),
        (
            lambda: almost_block_diagonal_solve(
                torch.ones(1, 3), torch.ones(2, 2, 5), torch.ones(2, 3), torch.ones(8, 1)
            ),
            ShapeError,
            "N s \\+ o = 7",
        ),
    ],
)
def test_mistakes_are_told(call: object, error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests check annotations at each call; a user's call goes straight to the function's own checks.
    for f in (banded_solve, tridiagonal_solve, almost_block_diagonal_solve):
        monkeypatch.setitem(call.__globals__, f.__name__, inspect.unwrap(f))  # type: ignore[attr-defined]
    with pytest.raises(error, match=text):
        call()  # type: ignore[operator]
