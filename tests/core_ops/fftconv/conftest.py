"""Shared by the tests of fftconv: what an output must be near to, and how near."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def relative_error(y: Tensor, expected: Tensor) -> float:
    """Relative L2 distance in float64; infinite for a NaN or an expectation of zero."""
    e = expected.detach().double()
    distance = (y.detach().double() - e).norm() / e.norm()
    return float(distance) if torch.isfinite(distance) else float("inf")


@pytest.fixture
def near() -> Callable[[Tensor, Tensor, float], None]:
    """near(y, expected, bound): close in relative L2, where zeros and a shifted output would not be."""

    def check(y: Tensor, expected: Tensor, bound: float) -> None:
        assert y.shape == expected.shape
        assert relative_error(torch.zeros_like(y), expected) > bound, "an all-zero output would pass"
        if y.shape[-1] > 2 and expected.std() > 0:
            assert relative_error(expected.roll(1, -1), expected) > bound, "a shifted output would pass"
        assert relative_error(y, expected) <= bound

    return check
