"""Depthwise causal filters of a few taps. Start at README.md."""

from .op import short_conv

__all__ = ["short_conv"]
