"""Muon: steps are orthogonal, members do not mix, everything else is AdamW's, a run goes on where it was."""

from __future__ import annotations

import copy

import torch
from torch import nn

from farfield.apps.physics.muon import Muon, orthogonal

HOW = {"lr": 1e-2, "weight_decay": 0.0, "betas": (0.9, 0.98)}


def parameters(seed: int = 0) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    return [nn.Parameter(torch.randn(shape)) for shape in ((2, 8, 24), (2, 8, 8), (2, 1, 5))]


def put(params: list[nn.Parameter], seed: int) -> None:
    torch.manual_seed(seed)
    for p in params:
        p.grad = torch.randn_like(p)


def test_singular_values_become_about_one() -> None:
    torch.manual_seed(1)
    given = torch.randn(6, 32, 32)
    u, _, v = torch.linalg.svd(given)
    found = orthogonal(given)
    values = torch.linalg.svdvals(found)
    assert float(values.max()) < 1.3
    assert float((values > 0.4).double().mean()) > 0.95
    assert float(((u @ v) * found).sum((1, 2)).min()) > 0.8 * 32
    assert bool(orthogonal(torch.zeros(1, 4, 4)).isfinite().all())


def test_a_step_turns_every_square_and_is_of_the_size_of_the_rate() -> None:
    wide, square, other = parameters()
    before = [p.detach().clone() for p in (wide, square, other)]
    put([wide, square, other], 3)
    optimizer = Muon([wide, square], [other], **HOW)
    optimizer.step()
    step = (before[0] - wide.detach())[1, :, 8:16]
    assert wide.grad is not None
    torch.testing.assert_close(step, 1e-2 * 8**0.5 * orthogonal(wide.grad[1:, :, 8:16])[0], rtol=1e-4, atol=1e-6)
    for old, new in zip(before[:2], (wide, square), strict=True):
        assert 0.6e-2 < float((old - new).detach().pow(2).mean().sqrt()) < 1.2e-2
    alone = nn.Parameter(before[2].clone())
    alone.grad = other.grad
    torch.optim.AdamW([alone], **HOW).step()  # type: ignore[arg-type]
    torch.testing.assert_close(alone, other, rtol=0, atol=0)


def test_members_do_not_mix() -> None:
    one, two = parameters(), parameters()
    for params in (one, two):
        put(params, 5)
    for p in two:
        assert p.grad is not None
        p.grad[1] *= 7
    for params in (one, two):
        Muon(params[:2], params[2:], **HOW).step()
    for a, b in zip(one[:2], two[:2], strict=True):
        torch.testing.assert_close(a[0], b[0], rtol=1e-6, atol=1e-7)


def test_a_run_goes_on_where_it_was() -> None:
    kept, again = parameters(), parameters()
    optimizer = Muon(kept[:2], kept[2:], **HOW)
    for seed in range(3):
        put(kept, seed)
        optimizer.step()
    for p, q in zip(again, kept, strict=True):
        p.data.copy_(q.detach())
    other = Muon(again[:2], again[2:], **HOW)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for params, one in ((kept, optimizer), (again, other)):
        put(params, 9)
        one.step()
    for p, q in zip(again, kept, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
