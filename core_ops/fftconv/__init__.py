"""Long convolutions by FFT: any length, any mode, gates and skip fused. Start at README.md."""

from .explain import Plan, explain
from .module import FFTConv
from .op import fftconv
from .plans import set_scratch_bytes

__all__ = ["FFTConv", "Plan", "explain", "fftconv", "set_scratch_bytes"]
