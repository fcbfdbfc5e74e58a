"""Companion state spaces and rational transfer functions. Start at README.md."""

from .closed_loop import closed_loop_kernel, closed_loop_response, loop_coefficients
from .op import companion_kernel, companion_scan, companion_step, rtf_kernel
from .stability import Certificate, certify, poles
from .state import advance, krylov, last_state

__all__ = [
    "Certificate",
    "advance",
    "certify",
    "closed_loop_kernel",
    "closed_loop_response",
    "companion_kernel",
    "companion_scan",
    "companion_step",
    "krylov",
    "last_state",
    "loop_coefficients",
    "poles",
    "rtf_kernel",
]
