"""short_conv equals its definition in every dtype, layout and packing, to any order of derivative."""

import inspect
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from farfield.core_ops.errors import DtypeError, ShapeError
from farfield.core_ops.short_conv import op, shift, short_conv
from farfield.core_ops.short_conv.reference import short_conv_reference

SHAPES = [(1, 1, 1, 1), (2, 3, 1, 4), (1, 2, 2, 3), (2, 17, 31, 3), (1, 5, 97, 7), (3, 16, 53, 5), (2, 4, 40, 16)]
SHAPES += [(1, 3, 71, 40)]
EPS = {torch.float64: 1e-15, torch.float32: 2e-7, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def _inputs(b: int, h: int, n: int, k: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(b, h, n, generator=g, dtype=torch.float64).to(dtype)
    w = torch.randn(h, k, generator=g, dtype=torch.float64)
    bias = torch.randn(h, generator=g, dtype=torch.float64)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return u, w.to(wide), bias.to(wide)


def _error(y: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 0
    return ((y.double() - expected).norm() / expected.norm()).item()


def _packing(b: int, n: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(b, n, generator=g) < 0.3).cumsum(1) % 2


@pytest.fixture(params=["small tiles", "one tile"])
def _tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small tiles":
        monkeypatch.setattr(shift, "TILE", 11)
        monkeypatch.setattr(shift, "CONV1D_LENGTH", 0)


@pytest.mark.parametrize(("b", "h", "n", "k"), SHAPES)
@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("layout", ["bhl", "blh"])
def test_output_equals_the_definition(b: int, h: int, n: int, k: int, dtype: torch.dtype, layout: str) -> None:
    u, w, bias = _inputs(b, h, n, k, dtype)
    expected = short_conv_reference(u.double(), w.double(), bias.double())
    x = u.transpose(1, 2).contiguous() if layout == "blh" else u
    y = short_conv(x, w, bias, layout=layout)
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert _error(y.transpose(1, 2) if layout == "blh" else y, expected) <= 2 * EPS[dtype]


@pytest.mark.parametrize(("b", "h", "n", "k"), SHAPES)
def test_definition_is_that_of_conv1d(b: int, h: int, n: int, k: int) -> None:
    u, w, bias = _inputs(b, h, n, k)
    expected = F.conv1d(u, w[:, None], bias, padding=k - 1, groups=h)[..., :n]
    assert _error(short_conv_reference(u, w, bias), expected) < 1e-15


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_16_bit_taps_are_accumulated_in_fp32(dtype: torch.dtype, needs_gradient: bool) -> None:
    u, w, bias = (x.to(dtype) for x in _inputs(2, 17, 61, 7, dtype))
    expected = short_conv_reference(u.double(), w.double(), bias.double())
    y = short_conv(u.requires_grad_(needs_gradient), w, bias)
    assert _error(y, expected) <= 2 * EPS[dtype]
    if needs_gradient:
        dy = _inputs(2, 17, 61, 1, dtype, seed=1)[0]
        du = torch.autograd.grad(y, u, dy)[0]
        wide = u.detach().double().requires_grad_()
        want = torch.autograd.grad(short_conv_reference(wide, w.double()), wide, dy.double())[0]
        assert _error(du, want) <= 2 * EPS[dtype]


def test_last_tap_meets_the_present() -> None:
    impulse = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    assert short_conv(impulse, torch.tensor([[3.0, 2.0, 1.0]])).tolist() == [[[1.0, 2.0, 3.0, 0.0]]]


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_packed_sequences_do_not_see_each_other(k: int, dtype: torch.dtype) -> None:
    u, w, bias = _inputs(2, 18, 41, k, dtype)
    seq_idx = _packing(2, 41)
    expected = short_conv_reference(u.double(), w.double(), bias.double(), seq_idx)
    assert _error(short_conv(u, w, bias, seq_idx=seq_idx), expected) <= 2 * EPS[dtype]
    for row in range(2):
        cuts = [0, *((seq_idx[row, 1:] != seq_idx[row, :-1]).nonzero().flatten() + 1).tolist(), 41]
        alone = [short_conv(u[row : row + 1, :, i:j], w, bias) for i, j in itertools.pairwise(cuts)]
        assert _error(torch.cat(alone, -1), expected[row : row + 1]) <= 2 * EPS[dtype]


def test_poison_in_another_sequence_or_in_the_future_stays_there() -> None:
    u, w, bias = _inputs(1, 2, 20, 4)
    clean = short_conv(u, w, bias, seq_idx=(torch.arange(20) >= 12)[None].long())
    u[..., 11] = torch.nan
    y = short_conv(u, w, bias, seq_idx=(torch.arange(20) >= 12)[None].long())
    assert torch.equal(y[..., 12:], clean[..., 12:])
    assert torch.equal(y[..., :11], clean[..., :11])


@pytest.mark.parametrize("layout", ["bhl", "blh"])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_pieces_with_state_equal_one_pass(k: int, layout: str) -> None:
    u, w, bias = _inputs(2, 17, 30, k)
    x = u.transpose(1, 2).contiguous() if layout == "blh" else u
    time = 1 if layout == "blh" else 2
    state = u.new_zeros(2, 17, k - 1)
    ys = []
    for piece in x.split([1, 2, 10, 1, 16], dim=time):
        y, state = short_conv(piece, w, bias, state, layout=layout)
        ys.append(y)
    assert _error(torch.cat(ys, time), short_conv(x, w, bias, layout=layout)) < 1e-15
    assert torch.equal(state, u[..., 30 - (k - 1) :])


def test_state_and_packing_together_equal_one_pass() -> None:
    u, w, bias = _inputs(2, 3, 30, 5)
    seq_idx = _packing(2, 30, seed=3)
    seq_idx[:, 11:13] = seq_idx[:, 10:11]
    whole = short_conv(u, w, bias, seq_idx=seq_idx)
    first, state = short_conv(u[..., :12], w, bias, u.new_zeros(2, 3, 4), seq_idx[:, :12])
    second, _ = short_conv(u[..., 12:], w, bias, state, seq_idx[:, 12:])
    assert _error(torch.cat([first, second], -1), whole) < 1e-15


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["bhl", "blh"])
def test_gradients_equal_those_of_the_definition(layout: str, packed: bool) -> None:
    for dtype, b, h, n, k in [
        (torch.float64, 2, 3, 37, 4),
        (torch.float32, 2, 19, 37, 5),
        (torch.float32, 2, 3, 61, 33),
    ]:
        u, w, bias = (x.requires_grad_() for x in _inputs(b, h, n, k, dtype))
        seq_idx = _packing(b, n) if packed else None
        cotangent = _inputs(b, n, h, 1, dtype, seed=1)[0].transpose(1, 2)
        x = u.transpose(1, 2) if layout == "blh" else u
        y = short_conv(x, w, bias, seq_idx=seq_idx, layout=layout)
        grads = torch.autograd.grad(y, (u, w, bias), cotangent.transpose(1, 2) if layout == "blh" else cotangent)
        wide = [z.detach().double().requires_grad_() for z in (u, w, bias)]
        expected = torch.autograd.grad(short_conv_reference(*wide, seq_idx), wide, cotangent.double())
        for g, e in zip(grads, expected, strict=True):
            assert g.dtype == dtype
            assert _error(g, e) <= 4 * EPS[dtype]


@pytest.mark.parametrize("layout", ["bhl", "blh"])
def test_gradcheck_to_the_second_order(layout: str) -> None:
    u, w, bias = (x.requires_grad_() for x in _inputs(2, 4, 4, 3))
    state = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    seq_idx = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])

    def plain(*a: Tensor) -> Tensor:
        return short_conv(*a, layout=layout)

    def packed(u: Tensor, w: Tensor, bias: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return short_conv(u, w, bias, state, seq_idx, layout)

    for fn, args in [(plain, (u, w, bias)), (packed, (u, w, bias, state))]:
        assert torch.autograd.gradcheck(fn, args)
        assert torch.autograd.gradgradcheck(fn, args)


def test_strided_inputs_and_gradients_are_accepted() -> None:
    u, w, bias = _inputs(2, 34, 66, 3)
    x = u[:, ::2, 1::3].requires_grad_()
    y = short_conv(x, w[::2], bias[::2])
    expected = short_conv_reference(x, w[::2], bias[::2])
    assert _error(y, expected) < 1e-15
    cotangent = torch.ones(1, 1, 1, dtype=u.dtype).expand_as(y)
    got, want = (torch.autograd.grad(z, x, cotangent)[0] for z in (y, expected))
    assert _error(got, want) < 1e-15
    assert _error(short_conv(u[:1].expand(3, -1, -1), w), short_conv_reference(u[:1], w).expand(3, -1, -1)) < 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("blh", [False, True])
def test_operators_pass_opcheck(dtype: torch.dtype, blh: bool) -> None:
    u, w, bias = _inputs(2, 5, 5, 3, dtype)
    reach = op._reach(_packing(2, 5))
    for args in [(u, w, bias, None, False, blh), (u, w, None, reach, True, blh)]:
        grads = tuple(x.clone().requires_grad_() if x is not None and i < 3 else x for i, x in enumerate(args))
        torch.library.opcheck(op._conv, grads)
    torch.library.opcheck(
        op._conv_dw, (u.clone().requires_grad_(), u.clone().requires_grad_(), reach, 3, dtype == torch.float64, blh)
    )


def test_compiles_whole_with_dynamic_shapes() -> None:
    unchecked = inspect.unwrap(short_conv)

    def step(u: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return unchecked(torch.sin(u), w, bias).square().sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 9, 16):
        args = [x.requires_grad_() for x in _inputs(2, 3, n, 3)]
        got = torch.autograd.grad(compiled(*args), args)
        for g, e in zip(got, torch.autograd.grad(step(*args), args), strict=True):
            assert _error(g, e) < 1e-14


def test_autocast_casts_the_input_and_leaves_float64() -> None:
    u, w, bias = _inputs(2, 3, 20, 3, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = short_conv(u, w, bias)
        assert short_conv(u.double(), w, bias).dtype == torch.float64
    assert torch.equal(y, short_conv(u.bfloat16(), w, bias))


def test_large_output_on_huge_pages_is_right() -> None:
    u, w, bias = _inputs(1, 3, 700_001, 3, torch.float32)
    expected = short_conv_reference(u.double(), w.double(), bias.double())
    assert _error(short_conv(u, w, bias), expected) <= 2 * EPS[torch.float32]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"u": torch.ones(2, 3)}, ShapeError, "needed"),
        ({"u": torch.ones(2, 3, 0)}, ShapeError, "no dimension empty"),
        ({"w": torch.ones(3, 1, 4)}, ShapeError, r"w\[:, 0\]"),
        ({"w": torch.ones(2, 4)}, ShapeError, "other layout"),
        ({"bias": torch.ones(4)}, ShapeError, "bias"),
        ({"state": torch.ones(2, 3, 4)}, ShapeError, "state"),
        ({"seq_idx": torch.ones(2, 4, dtype=torch.long)}, ShapeError, "seq_idx"),
        ({"seq_idx": torch.ones(2, 5)}, DtypeError, "integer"),
        ({"u": torch.ones(2, 3, 5, dtype=torch.long)}, DtypeError, "int64"),
        ({"layout": "lbh"}, ShapeError, "lbh"),
        ({"w": torch.ones(3, 4, device="meta")}, DtypeError, "meta"),
    ],
)
def test_mistakes_are_told(change: dict[str, object], error: type[Exception], text: str) -> None:
    call: dict[str, object] = {"u": torch.ones(2, 3, 5), "w": torch.ones(3, 4)} | change
    # Tests check annotations at each call; a user's call goes straight to the function's own checks.
    with pytest.raises(error, match=text):
        inspect.unwrap(short_conv)(**call)  # type: ignore[call-overload]
