"""A system is the same as companion, rational and modal form; poles and certificates say what is true of them."""

import pytest
import torch
from torch import Tensor

from farfield.core_ops.companion_ssm import (
    certify,
    companion_kernel,
    companion_to_rational,
    modal_to_rational,
    poles,
    rational_to_companion,
    rational_to_modal,
    rtf_kernel,
)


def draw(rows: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a, b, c = (torch.randn(rows, d, generator=g, dtype=torch.float64) for _ in range(3))
    return a / a.abs().sum(-1, keepdim=True), b, c


@pytest.mark.parametrize("d", [1, 2, 9, 32])
def test_all_three_forms_have_one_kernel(d: int) -> None:
    a, b, c = draw(3, d)
    k = companion_kernel(a, b, c, 60)
    num, den = companion_to_rational(a, b, c)
    assert torch.allclose(rtf_kernel(num, den, None, 61)[:, 1:], k, atol=1e-12)
    assert torch.allclose(companion_kernel(*rational_to_companion(num, den), 60), k, atol=1e-12)
    modal = rational_to_modal(num, den)
    z, r = (torch.view_as_complex(x) for x in modal)
    powers = z[..., None] ** torch.arange(60)
    assert torch.allclose((r[..., None] * powers).sum(1).real, k, atol=1e-9)
    for mine, expected in zip(modal_to_rational(*modal), (num, den), strict=True):
        assert torch.allclose(mine, expected, atol=1e-9)


def test_poles_are_sorted_roots() -> None:
    # (x - 0.5) (x + 2) = x^2 + 1.5 x - 1
    found = poles(torch.tensor([[1.0, -1.5]]))
    assert torch.allclose(found, torch.tensor([[[-2.0, 0.0], [0.5, 0.0]]], dtype=torch.float64))
    season = torch.zeros(1, 12)
    season[:, 0] = 1
    assert torch.allclose(torch.view_as_complex(poles(season)).abs(), torch.ones(1, 12, dtype=torch.float64))


@pytest.mark.parametrize("radius", [1.0, 0.9, 1.5])
def test_the_schur_test_agrees_with_the_eigenvalues(radius: float) -> None:
    a, _, _ = draw(200, 7)
    a = a * torch.linspace(0.3, 3, 200, dtype=torch.float64)[:, None]
    moduli = torch.view_as_complex(poles(a)).abs().amax(-1)
    assert (moduli < radius).any()
    assert (moduli > radius).any()
    assert torch.equal(certify(a, radius).inside, moduli < radius)


def test_the_norm_proves_stability() -> None:
    a, _, _ = draw(100, 20)
    found = certify(a * 0.999)
    assert found.proven.all()
    assert found.inside.all()
    assert (torch.view_as_complex(poles(a)).abs() <= 1 + 1e-12).all()
    unstable = certify(a * 5)
    assert not unstable.proven.any()
    integrator = certify(torch.ones(1, 1))
    assert integrator.proven.all()
    assert not integrator.inside.any()


def test_conversions_are_differentiable() -> None:
    a, b, c = (x.requires_grad_() for x in draw(2, 4))
    assert torch.autograd.gradcheck(companion_to_rational, (a, b, c))
    pairs = [x.detach().requires_grad_() for x in rational_to_modal(*companion_to_rational(a, b, c))]
    assert torch.autograd.gradcheck(modal_to_rational, pairs)
