"""Which implementation divides power series: the registry behind `impl=`."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..dispatch import Implementation, Registry
from . import custom
from .reference import all_pole_reference


@dataclass(frozen=True)
class Call:
    """What a division asks for.

    Args:
        device: Type of the operands' device. states: d. length: L.
    """

    device: str
    states: int
    length: int


class Run(Protocol):
    """Computes a checked division."""

    def __call__(self, x: Tensor, p: Tensor, length: int, single: bool) -> Tensor: ...


def run_series(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """By FFTs, as one operator."""
    y: Tensor = custom.all_pole(x, p, length, single, "series")
    return y


def run_reference(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """Term by term."""
    return all_pole_reference(x, p, length)


REGISTRY: Registry[Call, Run] = Registry("companion_kernel")
REGISTRY.register(Implementation("series", run_series, lambda call: None))
REGISTRY.register(Implementation("reference", run_reference, lambda call: None, automatic=False))


def all_pole(x: Tensor, p: Tensor, length: int, single: bool, impl: str = "auto") -> Tensor:
    """y[t] = x[t] + sum_{j=1}^{d} p[j - 1] y[t - j], t < length, by the implementation asked for.

    Args:
        x: (R, n), n <= length. p: (R, d). single: Whether 1e-8 of the largest entry is exact enough. impl: As public.
    Returns: (R, length), float64.
    """
    call = Call(x.device.type, p.shape[1], length)
    return REGISTRY.choose(impl, call).run(x, p, length, single)
