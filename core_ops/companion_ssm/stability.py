"""Where a companion system's poles are, and what is proven about them.

Shapes: * any leading dimensions, d states.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .reference import companion_matrix


def poles(a: Float[Tensor, "*h d"]) -> Float[Tensor, "*h d 2"]:
    """Eigenvalues of A, the roots of x^d - sum_i a[i] x^i, as (real, imaginary), largest modulus first.

    Args:
        a: (*, d), float32 or float64. For a closed loop's poles: loop_coefficients(a, b, k).
    Returns: (*, d, 2), float64, computed in float64 without gradient.
    Complexity: O(d^3) a row.
    """
    roots = torch.linalg.eigvals(companion_matrix(a.detach().double()))
    order = roots.abs().argsort(dim=-1, descending=True, stable=True)
    return torch.view_as_real(roots.gather(-1, order))


class Certificate(NamedTuple):
    """What is known of the poles of each row.

    Args:
        l1: sum_i |a[i]|.
        proven: Whether l1 <= 1, which proves that no pole lies outside the unit circle and that those on it are simple:
            the terms of 1 / D stay within 1 and the last component of A^l b within sum |b|. With l1 < 1 all poles are
            strictly inside.
        reflection: The largest modulus of the Schur-Cohn (step-down) coefficients at the radius asked for: below 1 if
            and only if all poles are of modulus < radius, as far as float64 computes it; 1 minus it is a margin.
        inside: reflection < 1.
    """

    l1: Tensor
    proven: Tensor
    reflection: Tensor
    inside: Tensor


def certify(a: Float[Tensor, "*h d"], radius: float = 1.0) -> Certificate:
    """Stability of x^d - sum_i a[i] x^i, by the norm of a and by the test of Schur and Cohn.

    Args:
        a: (*, d). radius: Of the circle asked about, for example 1, or 0.99 for a margin.
    Returns: Certificate of tensors (*).
    Complexity: O(d^2) a row; no eigenvalues.
    """
    d = a.shape[-1]
    p = a.detach().double().flip(-1)
    norm = p.abs().sum(-1)
    # Poles inside |x| < radius are those of D(z radius^-1...) inside the unit circle.
    terms = -p * torch.tensor(radius, dtype=p.dtype, device=p.device) ** -torch.arange(1, d + 1, device=p.device)
    largest = torch.zeros_like(norm)
    for m in range(d, 0, -1):
        last = terms[..., m - 1 : m]
        largest = torch.maximum(largest, torch.nan_to_num(last[..., 0].abs(), nan=torch.inf))
        inner = terms[..., : m - 1]
        terms = (inner - last * inner.flip(-1)) / (1 - last.square())
    return Certificate(norm, norm <= 1, largest, largest < 1)
