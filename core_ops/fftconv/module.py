"""FFTConv."""

import torch


class FFTConv(torch.nn.Module):
    """Module."""
