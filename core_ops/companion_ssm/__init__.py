"""Companion state spaces and rational transfer functions. Start at README.md."""

from .closed_loop import (
    closed_loop_factors,
    closed_loop_kernel,
    closed_loop_outputs,
    closed_loop_response,
    loop_coefficients,
)
from .convert import companion_to_rational, modal_to_rational, rational_to_companion, rational_to_modal
from .module import CompanionSSM
from .op import companion_kernel, companion_scan, companion_spectrum, companion_step, companion_step_, rtf_kernel
from .rtf import RTF
from .stability import Certificate, certify, poles
from .state import advance, krylov, last_state

__all__ = [
    "RTF",
    "Certificate",
    "CompanionSSM",
    "advance",
    "certify",
    "closed_loop_factors",
    "closed_loop_kernel",
    "closed_loop_outputs",
    "closed_loop_response",
    "companion_kernel",
    "companion_scan",
    "companion_spectrum",
    "companion_step",
    "companion_step_",
    "companion_to_rational",
    "krylov",
    "last_state",
    "loop_coefficients",
    "modal_to_rational",
    "poles",
    "rational_to_companion",
    "rational_to_modal",
    "rtf_kernel",
]
