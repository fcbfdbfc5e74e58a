"""Sub-quadratic operators for PyTorch."""

from .companion_ssm import RTF, CompanionSSM, closed_loop_kernel, companion_kernel, companion_scan, rtf_kernel
from .errors import DtypeError, KernelUnavailable, ShapeError
from .fftconv import FFTConv, FilterSpectrum, explain, fftconv
from .short_conv import short_conv

__all__ = [
    "RTF",
    "CompanionSSM",
    "DtypeError",
    "FFTConv",
    "FilterSpectrum",
    "KernelUnavailable",
    "ShapeError",
    "closed_loop_kernel",
    "companion_kernel",
    "companion_scan",
    "explain",
    "fftconv",
    "rtf_kernel",
    "short_conv",
]
