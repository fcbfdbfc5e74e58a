"""Sub-quadratic operators for PyTorch."""

from .errors import DtypeError, KernelUnavailable, ShapeError
from .fftconv import FFTConv, explain, fftconv
from .short_conv import short_conv

__all__ = ["DtypeError", "FFTConv", "KernelUnavailable", "ShapeError", "explain", "fftconv", "short_conv"]
