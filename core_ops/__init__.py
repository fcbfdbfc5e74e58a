"""Sub-quadratic operators for PyTorch."""
