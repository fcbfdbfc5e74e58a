"""The same system three ways: companion (a, b, c), rational (num, den), modal (poles, residues).

    k[l] = c^T A^l b = [z^l] (num[0] + num[1] z + ... + num[d-1] z^{d-1}) / (1 + den[0] z + ... + den[d-1] z^d)
         = sum_i residue_i pole_i^l

As an RTF these are the taps after h0: companion_kernel(a, b, c, L) = rtf_kernel(num, den, h0, L + 1)[..., 1:].
Complex numbers are pairs (real, imaginary) in a last dimension of 2. Shapes: * any leading dimensions, d states.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .rational import numerator, product, rows_of
from .stability import poles

Pair = tuple[Tensor, Tensor]


def companion_to_rational(a: Float[Tensor, "*#h d"], b: Float[Tensor, "*#h d"], c: Float[Tensor, "*#h d"]) -> Pair:
    """(num, den) of a companion system, both (*, d), float64, differentiable. Complexity: O(d log d) a row."""
    (a, b, c), lead = rows_of(a, b, c)
    return numerator(a, b, c).reshape(*lead, -1), -a.flip(1).reshape(*lead, -1)


def rational_to_companion(
    num: Float[Tensor, "*h d"], den: Float[Tensor, "*h d"]
) -> tuple[Float[Tensor, "*h d"], Float[Tensor, "*h d"], Float[Tensor, "*h d"]]:
    """(a, b, c) of a rational function, each (*, d): -den reversed, num reversed, e_d: nothing is solved."""
    c = torch.zeros_like(num)
    c[..., -1] = 1
    return -den.flip(-1), num.flip(-1), c


def rational_to_modal(num: Float[Tensor, "*h d"], den: Float[Tensor, "*h d"]) -> Pair:
    """Poles and residues, both (*, d, 2), float64, without gradient; residues grow without bound as poles meet.

    Complexity: O(d^3) a row.
    """
    roots = poles(-den.flip(-1))
    z = torch.view_as_complex(roots)
    value = torch.zeros_like(z)
    for j in range(num.shape[-1]):
        value = value * z + num[..., j : j + 1].detach().double()
    apart = z[..., :, None] - z[..., None, :]
    apart = apart + torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    return roots, torch.view_as_real(value / apart.prod(-1))


def modal_to_rational(poles: Float[Tensor, "*h d 2"], residues: Float[Tensor, "*h d 2"]) -> Pair:
    """(num, den), both (*, d), float64, differentiable: poles and residues real or in conjugate pairs.

    An imaginary part that is left, of poles without their conjugates, is dropped. Complexity: O(d^2) a row.
    """
    z, r = (torch.view_as_complex(x.double().contiguous()) for x in (poles, residues))
    d = z.shape[-1]
    below, powers, taps = torch.ones_like(z[..., :1]), torch.ones_like(z), []
    for i in range(d):
        longer = torch.nn.functional.pad(below, (0, 1))
        below = longer - z[..., i : i + 1] * torch.nn.functional.pad(below, (1, 0))
        taps.append((r * powers).real.sum(-1))
        powers = powers * z
    den = below.real.reshape(-1, d + 1)
    num = product(den[:, :d], torch.stack(taps, -1).reshape(-1, d), d)
    return num.reshape(r.shape), den[:, 1:].reshape(r.shape)
