"""Sub-quadratic operators for PyTorch."""

from .errors import DtypeError, KernelUnavailable, ShapeError
from .fftconv import FFTConv, explain, fftconv

__all__ = ["DtypeError", "FFTConv", "KernelUnavailable", "ShapeError", "explain", "fftconv"]
