"""Sub-quadratic operators for PyTorch."""

from .banded import almost_block_diagonal_solve, banded_solve, tridiagonal_solve
from .companion_ssm import (
    RTF,
    CompanionSSM,
    closed_loop_kernel,
    companion_kernel,
    companion_scan,
    companion_spectrum,
    rtf_kernel,
)
from .errors import DomainError, DtypeError, KernelUnavailable, ShapeError
from .fftconv import FFTConv, FilterSpectrum, explain, fftconv
from .short_conv import short_conv
from .spline_collocation import SplineCollocation, TensorCollocation, curvature, equidistribute, indicator_density

__all__ = [
    "RTF",
    "CompanionSSM",
    "DomainError",
    "DtypeError",
    "FFTConv",
    "FilterSpectrum",
    "KernelUnavailable",
    "ShapeError",
    "SplineCollocation",
    "TensorCollocation",
    "almost_block_diagonal_solve",
    "banded_solve",
    "closed_loop_kernel",
    "companion_kernel",
    "companion_scan",
    "companion_spectrum",
    "curvature",
    "equidistribute",
    "explain",
    "fftconv",
    "indicator_density",
    "rtf_kernel",
    "short_conv",
    "tridiagonal_solve",
]
