"""Long convolutions by FFT: any length, any mode, gates and skip fused. Start at README.md."""

from .explain import Plan, explain
from .module import FFTConv
from .op import fftconv
from .plans import set_scratch_bytes
from .spectrum import FilterSpectrum

__all__ = ["FFTConv", "FilterSpectrum", "Plan", "explain", "fftconv", "set_scratch_bytes"]
