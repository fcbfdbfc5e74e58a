"""fftconv on CUDA: sources, their compilation, which kernel with which sizes runs a call."""
